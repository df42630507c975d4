"""The Triton backend of ``contrastive_loss``. Triton itself is imported on the first call that it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from weft.kernels.contrastive_loss.arguments import Segment
from weft.kernels.contrastive_loss.reference import MAX, SUM, directions_of, pair_weights
from weft.kernels.contrastive_loss.reference_bwd import Wanted
from weft.ops._triton import refuse_machine, refuse_tensor

if TYPE_CHECKING:
    from weft.kernels.contrastive_loss.bwd import Factors
    from weft.kernels.contrastive_loss.host import Call

# what gradients at logits are multiplied by while they are held in 16 bits: those of probabilities down to 2**-28 are
# then normal numbers of fp16, and the largest, 2, stays finite
HELD_SCALE = 2.0**14


def refuse(rows: Tensor) -> list[str]:
    """Why the Triton kernels cannot take a call; empty if they can."""
    return refuse_tensor("rows", rows) or refuse_machine(rows.device)


def contrastive_loss_fwd_triton(rows: Tensor, segments: list[Segment]) -> list[Tensor]:
    """Statistics of each segment, as ``segment_statistics`` gives them."""
    from weft.kernels.contrastive_loss.fwd import contrastive_loss_fwd

    return [contrastive_loss_fwd(_call(rows, segment)) for segment in segments]


def contrastive_loss_bwd_triton(
    dloss: Tensor, rows: Tensor, segments: list[Segment], statistics: list[Tensor], wanted: Wanted
) -> tuple[Tensor, list[Tensor], Tensor]:
    """The gradients of ``contrastive_loss_backward_reference``, which says what the arguments are."""
    from weft.kernels.contrastive_loss.bwd import contrastive_loss_bwd

    wide = torch.float32
    drows = rows.new_zeros(rows.shape, dtype=wide) if wanted.rows else None
    dcolumns: list[Tensor] = []
    dtemperature: list[Tensor | None] = []
    for segment, found, wants_columns in zip(segments, statistics, wanted.columns, strict=True):
        dc = rows.new_zeros(segment.columns.shape, dtype=wide) if wants_columns else None
        factors = _factors(segment, found, dloss)
        dtemperature.append(contrastive_loss_bwd(_call(rows, segment), factors, drows, dc, wanted.temperature))
        dcolumns.append(rows.new_empty(0) if dc is None else dc.to(rows.dtype))
    return (
        rows.new_empty(0) if drows is None else drows.to(rows.dtype),
        dcolumns,
        torch.stack([dt for dt in dtemperature if dt is not None])
        if wanted.temperature
        else rows.new_empty(0, dtype=wide),
    )


def _call(rows: Tensor, segment: Segment) -> Call:
    from weft.kernels.contrastive_loss.host import Call

    row_ids, column_ids = segment.row_ids.contiguous(), segment.column_ids.contiguous()
    return Call(rows, segment._replace(row_ids=row_ids, column_ids=column_ids))


def _factors(segment: Segment, statistics: Tensor, dloss: Tensor) -> Factors:
    """The weights of a segment's lines, the largest of them as 1."""
    from weft.kernels.contrastive_loss.bwd import Factors

    shares, each = pair_weights(segment, statistics)
    lines = directions_of(segment, statistics)
    # of a line that counts: the same for all lines of a direction
    unit = torch.stack([(share * found[SUM]).amax() for share, found in zip(shares, lines, strict=True)]).abs().amax()
    held = HELD_SCALE / torch.where(unit > 0, unit, 1)
    by_line = [
        torch.stack([found[MAX], share * held, one * held])
        for found, share, one in zip(lines, shares, each, strict=True)
    ]
    return Factors(by_line[0], by_line[1] if segment.symmetric else None, dloss / held)
