"""The definition of ``concept_gate`` in plain PyTorch. Every other backend answers to this file.

Comparisons are made on float32 numbers that each backend rounds alike, and the criterion of Otsu on integers, so that
all backends give the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

# of the histogram for Otsu's rule
BINS = 256


def concept_gate_reference(maps: Tensor, strengths: Tensor, rule: str | float, overlap: str, out: Tensor) -> None:
    """Write how strongly each concept acts at each cell: its strength inside its mask, 0 outside.

    With x one column of ``maps``, low and high its least and largest value:

        median    m = x > the lower median of x, the value of rank (N - 1) // 2 counted from 0
        otsu      b = min(floor((x - low) / (high - low) * 256), 255);  m = b > k
                  k = the first of 0 ... 254 with the largest (T c_k - N t_k)^2 / (c_k (N - c_k)), where c_k is the
                  number and t_k the sum of all b <= k, and T the sum of all b
        a number  m = x > low + number * (high - low)

    A concept acts in a row where its strength is not 0. With ``overlap`` "largest" a cell stays in the mask of that
    acting concept alone whose (x - low) / (high - low) is largest there, the first of equals. A constant map has an
    empty mask; so has one with a value that is not finite, which takes no part in the overlap either.

    Args:
        maps: [B, N, K], any float dtype; one column a concept. Computed in fp32, or fp64 for fp64.
        strengths: [B', K], fp32 or fp64 likewise, B' a multiple of B. Row j belongs to maps[j mod B].
        rule: "median", "otsu", or a number in [0, 1).
        overlap: "largest" or "sum".
        out: [B', N, K], dtype of ``strengths``; overwritten.

    Source:
        Median of the attention to a concept: Personalized Residuals (Ham et al. 2024, arXiv:2405.12978), localized
        sampling. Otsu 1979, "A threshold selection method from gray-level histograms", equation 18. Numbers, repeats
        and overlap are weft's own.
    """
    samples, cells, concepts = maps.shape
    inside, factor = _masks_and_strengths(maps, strengths, rule, overlap)
    rows = out.view(-1, samples, cells, concepts).transpose(2, 3)
    torch.where(inside, factor, factor.new_zeros(()), out=rows)


def gate_of(maps: Tensor, strengths: Tensor, rule: str | float, overlap: str) -> Tensor:
    """What ``concept_gate_reference`` writes, [B', N, K], in memory of its own: what is transformed writes nowhere."""
    inside, factor = _masks_and_strengths(maps, strengths, rule, overlap)
    gate = torch.where(inside, factor, factor.new_zeros(()))  # [B' / B, B, K, N]
    return gate.transpose(2, 3).flatten(0, 1)


def _masks_and_strengths(maps: Tensor, strengths: Tensor, rule: str | float, overlap: str) -> tuple[Tensor, Tensor]:
    """[B' / B or 1, B, K, N] and [B' / B, B, K, 1]."""
    samples, _, concepts = maps.shape
    x = maps.to(strengths.dtype).transpose(1, 2).contiguous()  # [B, K, N]; each map is passed over several times
    low = x.amin(-1, keepdim=True)
    span = x.amax(-1, keepdim=True) - low  # [B, K, 1]; nan or inf where a value is not finite
    inside = _inside(x, low, span, rule)  # [B, K, N]
    factor = strengths.view(-1, samples, concepts, 1)  # [B' / B, B, K, 1]
    if concepts > 1 and overlap == "largest":
        acting = (factor != 0) & (span < torch.inf)
        contest = torch.where(acting, scale_to_one(x, low, span), -1.0)  # [B' / B, B, K, N]
        winner = contest.max(2, keepdim=True).indices  # the first of equals; argmax takes 30 times as long on a CPU
        inside = inside & (winner == torch.arange(concepts, device=x.device)[:, None])
    return inside, factor


def _inside(x: Tensor, low: Tensor, span: Tensor, rule: str | float) -> Tensor:
    """Which cells of [B, K, N] pass the threshold of their map; bool, same axes."""
    if rule == "otsu":
        bins = (scale_to_one(x, low, span) * BINS).to(torch.int64).clamp(max=BINS - 1)
        return bins > otsu_bin(bins)
    threshold = lower_median(x) if rule == "median" else low + float(rule) * span
    return x > torch.where(span < torch.inf, threshold, torch.inf)


def scale_to_one(x: Tensor, low: Tensor, span: Tensor) -> Tensor:
    """``x`` [..., N] from ``low`` ... ``low + span`` to 0 ... 1; 0 where that is no range."""
    return torch.where((span > 0) & (span < torch.inf), (x - low) / span, 0.0)


def lower_median(x: Tensor) -> Tensor:
    """The value of rank (N - 1) // 2 among the last axis of [..., N], as ``torch.median`` counts; [..., 1].

    NaN where there is one.
    """
    if x.device.type == "cpu":
        return x.median(-1, keepdim=True).values  # 10 us for 4096 values, where a sort takes 40
    # torch.median is refused on a GPU where algorithms must be deterministic, for its indices
    ordered = x.sort(-1).values
    middle, last = (ordered[..., rank, None] for rank in ((x.shape[-1] - 1) // 2, -1))
    return torch.where(last.isnan(), last, middle)


def otsu_bin(bins: Tensor) -> Tensor:
    """The last bin of the lower class, [..., 1], where [..., N] int64 are the ``bins`` of the cells.

    Bin 0 where all cells lie in it, as those of a map do that has no range.
    """
    histogram = bins.new_zeros(*bins.shape[:-1], BINS).scatter_add_(-1, bins, torch.ones_like(bins))
    count = histogram.cumsum(-1)  # c
    total = (histogram * torch.arange(BINS, device=bins.device)).cumsum(-1)  # t
    # integers below 2 ** 53 up to 4 million cells: float64 rounds only the square and the quotient
    between = (total[..., -1:] * count - bins.shape[-1] * total).double().square()
    within = (count * (bins.shape[-1] - count)).double()
    # the last bin would leave the upper class empty
    return torch.where(within > 0, between / within, -1.0)[..., :-1].argmax(-1, keepdim=True)
