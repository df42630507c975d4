"""Tables of a logit edit by region: objects are pulled to the row maximum inside their region, pushed down outside.

Serves MaskDiffusion and, with every weight 1 and no tail, DenseDiffusion. All tables are affine in a strength s, so a
step only rescales them: table(s) = base + s * slope.

Query labels: 0 leaves a query alone, 1 is background, further ones are regions. Key classes of cross-attention:
0 any other token, 1 left alone, 2 tail, 3 + 2 o the attributes of object o, 4 + 2 o its head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops import Edit

LEFT_ALONE, BACKGROUND = 0, 1  # query labels
OTHER, NEUTRAL, TAIL, FIRST_OBJECT = 0, 1, 2, 3  # key classes


@dataclass(frozen=True, eq=False)
class ScaledEdit:
    """An edit at fixed addresses whose strength is set in place.

    Attributes:
        edit: alpha, beta and gamma, [1, Lq, Lk] each.
        base, slope: The same three stacked, [3, 1, Lq, Lk].
    """

    edit: Edit
    base: Tensor
    slope: Tensor
    _stacked: Tensor

    @classmethod
    def of(cls, base: Tensor, slope: Tensor) -> ScaledEdit:
        """Start at strength 0."""
        stacked = base.clone()
        return cls(Edit(*stacked), base, slope, stacked)

    def scale(self, strength: float) -> None:
        """Set the strength, without waiting for the device."""
        torch.add(self.base, self.slope, alpha=strength, out=self._stacked)


@dataclass(frozen=True)
class Pull:
    """How one key class is edited where it belongs: S' = gain * (S + s * weight * (rowmax - S)).

    A negative weight pushes down instead, without the gain: S' = S - s * |weight| * (S - rowmin).
    """

    weight: float
    gain: float = 1.0


def cross_edit(
    inside: Tensor,
    head: Pull,
    attribute: Pull,
    tail: Pull,
    outside: float = 1.0,
    other: float = 1.0,
    background: float = 1.0,
) -> ScaledEdit:
    """Tables of cross-attention, [1, 2 + L, 3 + 2 n].

    Args:
        inside: How far region label l lies inside object o, [L, n] from 0 to 1, without background.
        head, attribute, tail: The pulls of the three kinds of keys.
        outside, other: How far the logits of an object's tokens outside its region, and those of tokens that belong
            to no object, are pushed down to the minimum of their row.
        background: How much of this reaches background, from 0 to 1.

    Source:
        arXiv:2309.04399, as released: S + s * w * (m+ - S) inside, S - s * (S - m-) outside.
    """
    objects = inside.shape[1]
    within = torch.cat([inside.new_zeros(1, objects), inside])[..., None]  # [1 + L, n, 1], background first
    base = inside.new_zeros(3, within.shape[0] + 1, FIRST_OBJECT + 2 * objects)
    slope = torch.zeros_like(base)
    pushed_base, pushed_slope = inside.new_tensor([1.0, 0.0, 0.0]), inside.new_tensor([-1.0, 0.0, 1.0])
    outside_slope = outside * pushed_slope

    base[0] = 1.0
    base[:, 1:, OTHER], slope[:, 1:, OTHER] = pushed_base[:, None], other * pushed_slope[:, None]
    if tail.weight < 0:
        depth = F.pad(within, (0, 0, 0, 1)).amax(1)  # [1 + L, 1], also without any object
        base[:, 1:, TAIL], slope[:, 1:, TAIL] = pushed_base[:, None], (-tail.weight * depth * pushed_slope).T
    else:
        base[:, 1:, TAIL], slope[:, 1:, TAIL] = (term[:, None] for term in _pulled(tail, inside))
    for first, pull in ((FIRST_OBJECT, attribute), (FIRST_OBJECT + 1, head)):
        pulled_base, pulled_slope = _pulled(pull, inside)
        base[:, 1:, first::2] = torch.lerp(pushed_base, pulled_base, within).movedim(-1, 0)
        slope[:, 1:, first::2] = torch.lerp(outside_slope, pulled_slope, within).movedim(-1, 0)
    identity = inside.new_tensor([1.0, 0.0, 0.0])[:, None]
    base[:, BACKGROUND] = torch.lerp(identity, base[:, BACKGROUND], background)
    slope[:, BACKGROUND] *= background
    return ScaledEdit.of(base[:, None], slope[:, None])


def self_edit(inside: Tensor, background: float = 1.0) -> ScaledEdit:
    """Tables of self-attention, [1, 2 + L, 2 + L]: keys of the own region up, all others down.

        S' = S + s * same * (rowmax - S) - s * (1 - same) * (S - rowmin)

    Args:
        inside: As in ``cross_edit``; two labels are the same region as far as both lie inside one object.
        background: How much of this reaches queries in the background, from 0 to 1.
    """
    within = torch.cat([inside.new_zeros(1, inside.shape[1]), inside])
    same = (within @ within.T).clamp(max=1.0)  # [1 + L, 1 + L]
    base = inside.new_zeros(3, same.shape[0] + 1, same.shape[0] + 1)
    slope = torch.zeros_like(base)
    base[0] = 1.0
    slope[0, 1:] = -1.0
    slope[1, 1:, 1:] = same
    slope[2, 1:] = 1.0
    slope[2, 1:, 1:] -= same
    slope[:, BACKGROUND] *= background
    return ScaledEdit.of(base[:, None], slope[:, None])


def _pulled(pull: Pull, like: Tensor) -> tuple[Tensor, Tensor]:
    """(base, slope) of alpha, beta, gamma where a key is pulled up."""
    base = like.new_tensor([pull.gain, 0.0, 0.0])
    slope = like.new_tensor([-pull.gain * pull.weight, pull.gain * pull.weight, 0.0])
    return base, slope


def disjoint_labels(objects: int, levels: int) -> Tensor:
    """``inside`` for regions that do not overlap: label o * levels + i is object o at (i + 1) / levels, [L, n]."""
    depth = torch.arange(1, levels + 1) / levels
    return torch.kron(torch.eye(objects), depth[:, None])


def overlapping_labels(objects: int) -> Tensor:
    """``inside`` for regions that may: label m - 1 is the set of objects whose bits m holds, [2^n - 1, n]."""
    masks = torch.arange(1, 2**objects)
    return (masks[:, None] >> torch.arange(objects) & 1).float()
