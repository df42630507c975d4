"""Arguments of Triton kernels, by the names that kernels have for them."""

from __future__ import annotations

from torch import Tensor


def strides(name: str, x: Tensor | None, axes: str) -> dict[str, int]:
    """The strides of ``x``; zeros where it is absent."""
    values = (0,) * len(axes) if x is None else x.stride()
    return {f"stride_{name}_{axis}": value for axis, value in zip(axes, values, strict=True)}
