"""The C++ forward of ``lowrank_linear``: everything in one pass over the rows. From tensors to pointers and strides.

Few tensor methods: beside a small layer each microsecond of Python shows.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from weft._native_loader import native, native_or_none
from weft.kernels.lowrank_linear.arguments import Arguments

_DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
# pointer, strides of batch, row and column
Stack = tuple[int, int, int, int]
_ABSENT: Stack = (0, 0, 0, 1)


@lru_cache(maxsize=8)
def is_faster(dtype: torch.dtype) -> bool:
    """Whether this processor has what makes the kernel faster than BLAS products followed by passes over the result.

    Without wide vectors it is not faster; and where there is AMX, which it does not use, BLAS wins with bf16.
    """
    module = native_or_none()
    usable = {} if module is None else module.instruction_sets()
    return bool(usable.get("avx2")) and not (dtype == torch.bfloat16 and usable.get("amx"))


def lowrank_linear_fwd_fused(call: Arguments, *, num_threads: int | None = None, isa: str = "auto") -> Tensor:
    """Run the C++ kernel.

    Args:
        call: One of its tensors that has no axis of stride 1, or another than the result, is copied.
        num_threads: Workers, by default ``torch.get_num_threads()``. The result does not depend on it.
        isa: An instruction set of ``weft._native.instruction_sets()``, or "auto" for the strongest here.

    Returns:
        [B, N, Cout], or [B, Cout, N] if ``channels_first``; contiguous.

    Raises:
        ValueError: A size is impossible, or ``isa`` cannot run here.
    """
    x, weight, bias, down, up, ranks, gate, residual, base, channels_first = call
    samples, rows, width_in = x.shape
    width_out = call.width_out
    y = x.new_empty((samples, width_out, rows) if channels_first else (samples, rows, width_out))
    # images of one cell lie as rows do
    by_channel = channels_first and rows > 1
    # `kept` holds copies alive until the kernel is done
    kept: list[Tensor] = []
    if bias is not None and not bias.is_contiguous():
        bias = bias.contiguous()
    native().lowrank_linear_fwd_cpu(
        (
            _rows(x, kept),
            _matrix(weight, kept),
            _matrix(down, kept),
            _matrix(up, kept),
            _gate(gate),
            _addend(residual, by_channel, kept),
            _addend(base, by_channel, kept),
            (y.data_ptr(), width_out * rows, 1, rows)
            if by_channel
            else (y.data_ptr(), rows * width_out, width_out, 1),
        ),
        0 if bias is None else bias.data_ptr(),
        (samples, rows, width_in, width_out),
        ranks,
        _DTYPE_CODES[x.dtype],
        num_threads or torch.get_num_threads(),
        isa,
    )
    return y


def _rows(x: Tensor, kept: list[Tensor]) -> Stack:
    """[B, N, C] by whichever of the last two axes has stride 1."""
    _, row, column = strides = _strides(x)
    if column != 1 and row != 1:
        x = _keep(x.contiguous(), kept)
        strides = _strides(x)
    return x.data_ptr(), *strides


def _matrix(x: Tensor | None, kept: list[Tensor]) -> Stack:
    return _ABSENT if x is None else _rows(x[None], kept)


def _gate(gate: Tensor | None) -> Stack:
    """[B or 1, N or 1, K] with stride 0 along an axis of one."""
    if gate is None:
        return _ABSENT
    batch, row, column = _strides(gate)
    return gate.data_ptr(), batch, row if gate.shape[1] > 1 else 0, column


def _addend(x: Tensor | None, by_channel: bool, kept: list[Tensor]) -> Stack:
    """[B, N, Cout], whose axis of stride 1 must be that of the result."""
    if x is None:
        return _ABSENT
    _, row, column = strides = _strides(x)
    if (row if by_channel else column) != 1:
        x = _keep(x.transpose(1, 2).contiguous().transpose(1, 2) if by_channel else x.contiguous(), kept)
        strides = _strides(x)
    return x.data_ptr(), *strides


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Strides of [B, N, C], where those never walked, of an axis with one entry or an empty tensor, say nothing."""
    samples, rows, columns = x.shape
    if not (samples and rows and columns):
        return 0, 1, 1
    batch, row, column = x.stride()
    return batch if samples > 1 else 0, row if rows > 1 else 1, column if columns > 1 else 1


def _keep(x: Tensor, kept: list[Tensor]) -> Tensor:
    kept.append(x)
    return x
