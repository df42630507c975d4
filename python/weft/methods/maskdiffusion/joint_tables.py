"""Tables of a joint attention's edit by region, whose queries and keys are the same tokens and have the same labels.

Labels: 0 leaves a token alone, 1 is a pixel of the background, 2 to 1 + L pixels of the L region labels, 2 + L + o the
words of object o.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.methods.maskdiffusion.joint_settings import JointSettings
from weft.ops import Edit

LEFT_ALONE, BACKGROUND, FIRST_REGION = 0, 1, 2


@dataclass(frozen=True, eq=False)
class JointEdit:
    """An edit at fixed addresses whose strength is set in place.

    Attributes:
        edit: alpha and delta, [1, labels, labels] each.
        gain, shift: Their values at strength 1.
        first_word: Label of the words of object 0.
    """

    edit: Edit
    gain: Tensor
    shift: Tensor
    first_word: int

    def scale(self, strength: float) -> None:
        """Set the strength, without waiting for the device; at 0 nothing is edited, not even by -inf."""
        alpha, delta = self.edit.alpha, self.edit.delta
        assert alpha is not None and delta is not None
        alpha.copy_(self.gain).sub_(1).mul_(strength).add_(1)
        if strength == 0:
            delta.zero_()
        else:
            torch.mul(self.shift, strength, out=delta)


def joint_edit(inside: Tensor, settings: JointSettings) -> JointEdit:
    """Start at strength 0.

    Args:
        inside: Which objects' regions label l lies in, [L, n] of 0 and 1, without background.
        settings: The terms.
    """
    regions, objects = inside.shape
    within = torch.cat([inside.new_zeros(1, objects), inside]) > 0  # [1 + L, n], background first
    together = within.float() @ within.float().T > 0  # [1 + L, 1 + L]
    first_word = FIRST_REGION + regions
    pixels, boxed = slice(BACKGROUND, first_word), slice(FIRST_REGION, first_word)
    words = slice(first_word, first_word + objects)

    shift = inside.new_zeros(1, words.stop, words.stop)
    shift[0, pixels, words] = _chosen(within, settings.inside, settings.outside, inside)
    shift[0, boxed, pixels] = _chosen(together[1:], 0.0, settings.between_pixels, inside)
    shift[0, words, pixels] = _chosen(within.T, 0.0, settings.from_words, inside)
    own = torch.eye(objects, dtype=torch.bool, device=inside.device)
    shift[0, words, words] = _chosen(own, 0.0, settings.between_words, inside)
    gain = torch.ones_like(shift)
    gain[0, pixels, words] = _chosen(within, settings.gain, 1.0, inside)
    return JointEdit(Edit(alpha=torch.ones_like(gain), delta=torch.zeros_like(shift)), gain, shift, first_word)


def _chosen(where: Tensor, yes: float, no: float, like: Tensor) -> Tensor:
    return torch.where(where, like.new_tensor(yes), like.new_tensor(no))
