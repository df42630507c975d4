"""The CPU backend of ``pairwise_error``: some columns of a row at a time, so that differences stay in a cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# values whose differences are held at a time, but no less than those of one pair
HELD_VALUES = 1 << 16


def refuse(pred: Tensor) -> list[str]:
    """Why this backend cannot take a call; empty if it can."""
    return [] if pred.device.type == "cpu" else [f"needs CPU tensors; pred is on {pred.device}"]


def pairwise_error_fwd_cpu(pred: Tensor, target: Tensor) -> Tensor:
    """The result of ``pairwise_error_reference``, which says what the arguments are."""
    wide = torch.promote_types(pred.dtype, torch.float32)
    error = torch.empty(pred.shape[:2], dtype=wide)
    for row, columns in _parts(pred):
        difference = pred[row, columns].to(wide) - target[row].to(wide)
        error[row, columns] = difference.flatten(1).square_().mean(1)
    return error


def pairwise_error_bwd_cpu(
    derror: Tensor, pred: Tensor, target: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """The gradients of ``pairwise_error_backward_reference``, likewise."""
    factors = (derror * (2 / target[0].numel())).view(*derror.shape, *[1] * (pred.ndim - 2))
    dpred = torch.empty_like(pred) if wanted[0] else pred.new_empty(0)
    dtarget = torch.zeros_like(target, dtype=derror.dtype) if wanted[1] else derror.new_empty(0)
    # in place where nothing is rounded
    direct = wanted[0] and pred.dtype == derror.dtype
    for row, columns in _parts(pred):
        sides = (pred[row, columns].to(derror.dtype), target[row].to(derror.dtype))
        through = torch.sub(*sides, out=dpred[row, columns] if direct else None)
        through *= factors[row, columns]
        if wanted[0] and not direct:
            dpred[row, columns] = through
        if wanted[1]:
            dtarget[row] -= through.sum(0)
    return dpred, dtarget.to(target.dtype)


def _parts(pred: Tensor) -> Iterator[tuple[int, slice]]:
    """Rows, and the columns of each that are taken together."""
    rows, columns = pred.shape[:2]
    width = max(1, HELD_VALUES // max(1, pred[0, 0].numel()))
    for row in range(rows):
        for start in range(0, columns, width):
            yield row, slice(start, start + width)
