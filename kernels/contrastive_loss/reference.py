"""The definition of ``contrastive_loss`` in plain PyTorch. Every other backend answers to this file.

It forms every logit, which the others do not; sums are taken in fp32, or fp64 for fp64 input. A backend gives
``Statistics`` of each segment, and ``loss_of`` makes the loss of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import Segment

# lines of ``row_ids`` and ``column_ids``
POSITIVE, EXCLUDED, CLASS = range(3)
# lines of the statistics of a segment
MAX, SUM, COUNT, TOTAL = range(4)


def contrastive_loss_reference(rows: Tensor, segments: list[Segment]) -> Tensor:
    """Classify the positives of each row against its other columns, by softmax.

        s_ik  = a_i . c_k / T
        lse_i = log of the sum of exp(s_ik) over the admissible columns k
        L     = mean over rows i with a positive of (lse_i - mean of s_ik over the positives k of i)

    A symmetric segment has the average of this and of the same with rows and columns exchanged; the loss is the sum
    over segments of weight times L. A row without a positive has no part in it, and a segment of such rows gives 0.

    Args:
        rows: A, [R, D], any float dtype.
        segments: At least one.

    Returns:
        0-dim, fp32, or fp64 for fp64 input.

    Source:
        InfoNCE (van den Oord et al. 2018, arXiv:1807.03748); symmetric: CLIP (Radford et al. 2021, arXiv:2103.00020,
        figure 3); self excluded: NT-Xent, SimCLR (Chen et al. 2020, arXiv:2002.05709, equation 1); several positives:
        SupCon (Khosla et al. 2020, arXiv:2004.11362, L_out of equation 2).
    """
    return loss_of(segments, [segment_statistics(rows, segment) for segment in segments])


def loss_of(segments: list[Segment], statistics: list[Tensor]) -> Tensor:
    """The loss, from the statistics of each segment."""
    losses = []
    for segment, found in zip(segments, statistics, strict=True):
        directions = [_mean_loss(direction) for direction in directions_of(segment, found)]
        # [1] and not 0-dim, whose product with a number has a forward-mode derivative in float64
        losses.append(torch.stack(directions).mean(0, keepdim=True) * segment.weight)
    return torch.cat(losses).sum()


def segment_statistics(rows: Tensor, segment: Segment) -> Tensor:
    """Of each row, and of each column where these are rows, too, what its loss and its gradient need.

    Returns:
        [4, R] or [4, R + K], fp32 (fp64 for fp64 input). MAX, the largest admissible logit (0 where all are known to
        be small), and SUM, that of exp(s - MAX) over the admissible pairs: together the log-sum-exp, but with no
        digits lost where logits are large. COUNT of the positives, and the TOTAL of their logits. Where there is no
        positive MAX is +inf and SUM 1: exp(s - MAX) / SUM, the probability of a pair there, is then 0, as its
        gradient is.
    """
    wide = torch.promote_types(rows.dtype, torch.float32)
    logits = rows.to(wide) @ segment.columns.to(wide).T / segment.temperature  # [R, K]
    positive, admissible = pairs_of(segment)
    found = [_statistics(logits, positive, admissible)]
    if segment.symmetric:
        found.append(_statistics(logits.T, positive.T, admissible.T))
    return torch.cat(found, 1)


def pairs_of(segment: Segment) -> tuple[Tensor, Tensor]:
    """Which pairs are positive, and which are admissible in the denominator; bool [R, K]."""
    equal = segment.row_ids[:, :, None] == segment.column_ids[:, None, :]
    positive = equal[POSITIVE]
    admissible = torch.ones_like(positive)
    if segment.excludes:
        admissible = ~equal[EXCLUDED]
        positive = positive & admissible
    if segment.has_classes:
        admissible = admissible & (positive | ~equal[CLASS])
    return positive, admissible


def pair_weights(segment: Segment, statistics: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Of each direction: what exp(s - MAX) of a line's pairs weighs in the gradient, and what its positives do.

    With the first as w and the second as v, dL/ds_ik = w_i exp(s_ik - MAX_i) - v_i [k is a positive of i], and the
    same of the columns added where they are rows, too.
    """
    directions = directions_of(segment, statistics)
    shares, each = [], []
    for found in directions:
        count = found[COUNT]
        share = (count > 0).to(count.dtype)
        share = share * (segment.weight / len(directions)) / share.sum().clamp_min(1)
        shares.append(share / found[SUM])
        each.append(share / count.clamp_min(1))
    return shares, each


def directions_of(segment: Segment, statistics: Tensor) -> list[Tensor]:
    """The statistics of the rows and, where they are rows too, of the columns."""
    rows = segment.row_ids.shape[1]
    return [statistics[:, :rows], statistics[:, rows:]] if segment.symmetric else [statistics]


def _statistics(logits: Tensor, positive: Tensor, admissible: Tensor) -> Tensor:
    count = positive.sum(1)
    counts = count > 0
    # of a line that does not count nothing is hidden, so that none is empty and no gradient NaN
    seen = logits.masked_fill(~admissible & counts[:, None], -torch.inf)
    largest = seen.amax(1)
    sums = (seen - largest[:, None]).exp().sum(1)
    total = logits.masked_fill(~positive, 0).sum(1)
    largest, sums = torch.where(counts, largest, torch.inf), torch.where(counts, sums, 1)
    return torch.stack([largest, sums, count.to(logits.dtype), total])


def _mean_loss(statistics: Tensor) -> Tensor:
    count = statistics[COUNT]
    counts = count > 0
    # in this order, since the first two may be large and equal
    losses = statistics[MAX] - statistics[TOTAL] / count.clamp_min(1) + statistics[SUM].log()
    losses = torch.where(counts, losses, 0)
    return losses.sum() / counts.sum().clamp_min(1)
