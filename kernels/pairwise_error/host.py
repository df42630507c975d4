"""What the Triton launchers of ``pairwise_error`` make of tensors: pairs of n values, with strides and no copy."""

from __future__ import annotations

from torch import Tensor


def memory_order(x: Tensor) -> list[int]:
    """The axes after the first two, outermost in memory first."""
    strides = x.stride()
    return sorted(range(2, x.ndim), key=lambda axis: -strides[axis])


def as_pairs(pred: Tensor, order: list[int]) -> Tensor:
    """[R, C, n] of [R, C, ...], the rest in this order; a copy only where no stride leads from value to value."""
    return pred.permute(0, 1, *order).flatten(2)


def as_targets(target: Tensor, order: list[int]) -> Tensor:
    """[R, n] of [R, ...], likewise; ``order`` counts the axes of ``pred``."""
    return target.permute(0, *(axis - 1 for axis in order)).flatten(1)
