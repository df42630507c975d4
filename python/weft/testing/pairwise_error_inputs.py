"""Random inputs of ``pairwise_error``, as models hand them out, and the errors as plain PyTorch takes them."""

from __future__ import annotations

import torch
from torch import Tensor

PAIR_LAYOUTS = ("contiguous", "channels_last", "rows_last", "sliced", "shared")


def make_pairs(
    rows: int,
    columns: int,
    rest: tuple[int, ...],
    dtype: torch.dtype,
    layout: str = "contiguous",
    seed: int = 0,
    device: str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Predictions [R, C, ...] and the targets [R, ...] that they miss by a tenth or so.

    Args:
        rows, columns, rest: R, C and what follows.
        dtype, device: Of both.
        layout: One of ``PAIR_LAYOUTS``: the first axis of ``rest`` innermost, as a channels_last model gives it; the
            rows innermost; inside a larger tensor whose other values are NaN; one prediction for all columns.
        seed: Of the values.
    """
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(rows, *rest, generator=generator)
    pred = target[:, None] + 0.1 * torch.randn(rows, columns, *rest, generator=generator)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    pred, target = (x.to(device, wide).to(dtype) for x in (pred, target))
    if layout == "channels_last":
        return pred.movedim(2, -1).contiguous().movedim(-1, 2), target.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "rows_last":
        return pred.movedim(0, -1).contiguous().movedim(-1, 0), target
    if layout == "sliced":
        wider = pred.new_full((rows, columns + 2, *rest[:-1], rest[-1] + 3), torch.nan)
        inside = wider[:, 1 : columns + 1, ..., 2 : 2 + rest[-1]]
        return inside.copy_(pred), target
    if layout == "shared":
        return pred[:, :1].expand(pred.shape), target
    return pred, target


def pairwise_error_eager(pred: Tensor, target: Tensor) -> Tensor:
    """The errors from all differences, widened to fp32 at least."""
    wide = torch.promote_types(pred.dtype, torch.float32)
    repeated = target.to(wide)[:, None].expand(pred.shape)
    return torch.nn.functional.mse_loss(pred.to(wide), repeated, reduction="none").flatten(2).mean(2)
