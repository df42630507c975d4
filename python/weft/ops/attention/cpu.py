"""The C++ forward of ``attention``: from tensors to the pointers, sizes and strides that ``weft._native`` takes.

This runs before every call of a kernel that may take microseconds: few tensor methods, no copy of q, k or v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft._native_loader import native, why_not_native

MAX_HEAD_WIDTH = 256

_DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_ABSENT = (0, 0)


def refuse(q: Tensor, k: Tensor, v: Tensor) -> list[str]:
    """Why the CPU kernel cannot take q [B, Nq, H, D], k and v [B, Nk, H, D]; empty if it can."""
    reasons = []
    missing = why_not_native()
    if missing is not None:
        reasons.append(missing)
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.device.type != "cpu":
            reasons.append(f"needs CPU tensors; {name} is on {x.device}")
        if x.dtype not in _DTYPE_CODES:
            reasons.append(f"needs float32, float16 or bfloat16; {name} is {x.dtype}")
        if x.stride(-1) != 1 and x.shape[-1] > 1 and x.numel() > 0:
            reasons.append(f"needs unit stride along D; {name} has strides {tuple(x.stride())}")
    if q.shape[-1] > MAX_HEAD_WIDTH:
        reasons.append(f"needs D <= {MAX_HEAD_WIDTH}; D is {q.shape[-1]}")
    return reasons


def attention_fwd_cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    alpha: Tensor | None = None,
    beta: Tensor | None = None,
    gamma: Tensor | None = None,
    delta: Tensor | None = None,
    readout: Tensor | None = None,
    query_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    key_padding: Tensor | None = None,
    *,
    num_threads: int | None = None,
    isa: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Run the CPU kernel on inputs that ``refuse`` accepts.

    Args:
        q, k, v, scale, alpha, beta, gamma, delta, readout, query_labels, key_labels, key_padding: As in
            ``attention_reference``. Tables, labels, padding and read-out are copied where they are not contiguous or
            not fp32, int32 and bool; q, k and v never are.
        num_threads: Workers, by default ``torch.get_num_threads()``. The result does not depend on it.
        isa: An instruction set of ``weft._native.instruction_sets()``, or "auto" for the strongest here.

    Returns:
        out [B, Nq, H, D] contiguous in the dtype of ``q``; maps [B, Nq, M] fp32.

    Raises:
        ValueError: A label is outside its table, a size is impossible, or ``isa`` cannot run here.
    """
    samples, seqlen_q, heads, width = shape = q.shape
    out = torch.empty(shape, dtype=q.dtype)
    columns = 0 if readout is None else readout.shape[2]
    maps = torch.empty((samples, seqlen_q, columns), dtype=torch.float32)
    labels_q, labels_k = 1, 1
    for table in (alpha, beta, gamma, delta):
        if table is not None:
            _, labels_q, labels_k = table.shape
            break

    # `kept` holds copies alive until the kernel is done
    kept: list[Tensor] = []
    tables = (
        *(_ABSENT if t is None else _place(t, torch.float32, kept) for t in (alpha, beta, gamma, delta, readout)),
        *(_ABSENT if t is None else _place(t, torch.int32, kept) for t in (query_labels, key_labels)),
        _ABSENT if key_padding is None else _place(key_padding, torch.bool, kept),
    )
    native().attention_fwd_cpu(
        (q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr()),
        (_strides(q), _strides(k), _strides(v), _strides(out)),
        (samples, seqlen_q, k.shape[1], heads, width, columns, labels_q, labels_k),
        tables,
        maps.data_ptr(),
        scale,
        _DTYPE_CODES[q.dtype],
        num_threads or torch.get_num_threads(),
        isa,
    )
    return out, maps


def _strides(x: Tensor) -> tuple[int, int, int, int]:
    """Strides of [B, N, H, D], where those never walked, of an axis with one entry or an empty tensor, say nothing."""
    samples, tokens, heads, width = x.shape
    if not (samples and tokens and heads and width):
        return 0, 0, 0, 1
    batch, token, head, last = x.stride()
    return (
        batch if samples > 1 else 0,
        token if tokens > 1 else 0,
        head if heads > 1 else 0,
        last if width > 1 else 1,
    )


def _place(x: Tensor, dtype: torch.dtype, kept: list[Tensor]) -> tuple[int, int]:
    """Address and batch stride of ``x`` [B or 1, ...]; stride 0 shares the one entry among all samples."""
    if x.dtype != dtype or not x.is_contiguous():
        x = x.to(dtype).contiguous()
        kept.append(x)
    # of an empty tensor nothing is read, whatever its strides say
    return x.data_ptr(), 0 if x.shape[0] == 1 or not x.numel() else x.stride(0)
