"""Tensors whose strides say nothing."""

from __future__ import annotations

from torch import Tensor


def with_idle_strides(x: Tensor, stride: int = 1 << 58) -> Tensor:
    """The values of ``x`` with other strides wherever none is ever walked.

    PyTorch itself makes such tensors: an axis of one entry keeps the stride of what it was cut from, and a slice of an
    empty tensor multiplies strides that are never used.

    Args:
        x: Any shape; shares its memory with the result.
        stride: Of the axes with one entry, and of all axes where ``x`` is empty; further axes count up from here.
    """
    empty = not x.numel()
    strides = [stride + axis if empty or n == 1 else x.stride(axis) for axis, n in enumerate(x.shape)]
    return x.as_strided(x.shape, strides)
