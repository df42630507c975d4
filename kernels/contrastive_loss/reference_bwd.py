"""The gradients of ``contrastive_loss`` in plain PyTorch, for backends without a backward of their own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import Segment
from .reference import MAX, pair_weights, pairs_of


class Wanted(NamedTuple):
    """Which gradients are asked for; ``columns`` has one entry a segment, ``temperature`` is for all of them."""

    rows: bool
    columns: tuple[bool, ...]
    temperature: bool


def contrastive_loss_backward_reference(
    dloss: Tensor, rows: Tensor, segments: list[Segment], statistics: list[Tensor], wanted: Wanted
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Gradients of what ``contrastive_loss_reference`` takes, for the gradient ``dloss`` at the loss.

        G  = w_i exp(s_ik - MAX_i) - v_i [positive] + the same of the columns        (``pair_weights``)
        dA = G C / T        dC = G^T A / T        dT = - sum of G * s / T

    Args:
        dloss: 0-dim.
        rows, segments: As in ``contrastive_loss_reference``.
        statistics: Of each segment, as forward gave them.
        wanted: Which gradients to compute.

    Returns:
        drows, dcolumns of each segment, and dtemperature [segments], each shaped as its input and in its dtype; [0]
        where it is not wanted.
    """
    wide = statistics[0].dtype
    drows = torch.zeros_like(rows, dtype=wide) if wanted.rows else rows.new_empty(0)
    dcolumns, dtemperature = [], []
    for segment, found, wants_columns in zip(segments, statistics, wanted.columns, strict=True):
        a, c = rows.to(wide), segment.columns.to(wide)
        logits = a @ c.T / segment.temperature
        g = _pair_gradients(logits, segment, found) * dloss
        if wanted.rows:
            drows = drows + g @ c / segment.temperature
        dc = g.T @ a / segment.temperature if wants_columns else c.new_empty(0)
        dcolumns.append(dc.to(rows.dtype))
        dtemperature.append(-(g * logits).sum() / segment.temperature)
    dt = torch.stack(dtemperature) if wanted.temperature else rows.new_empty(0, dtype=wide)
    return drows.to(rows.dtype), dcolumns, dt


def _pair_gradients(logits: Tensor, segment: Segment, statistics: Tensor) -> Tensor:
    """G of a segment, [R, K]."""
    positive, admissible = pairs_of(segment)
    shares, each = pair_weights(segment, statistics)
    rows = logits.shape[0]
    g = shares[0][:, None] * (logits - statistics[MAX, :rows, None]).exp()
    v = each[0][:, None].expand(g.shape)
    if segment.symmetric:
        g = g + shares[1] * (logits - statistics[MAX, rows:]).exp()
        v = v + each[1]
    return g.masked_fill(~admissible, 0) - v.masked_fill(~positive, 0)
