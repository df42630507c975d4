"""What the C++ and the CUDA C++ forward of ``attention`` share: from tensors to pointers, sizes and strides.

This runs before every call of a kernel that may take microseconds: few tensor methods, no copy of q, k or v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.kernels.attention.arguments import Arguments

# of the dtypes that a kernel takes
DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
# address and batch stride
Place = tuple[int, int]
Strides = tuple[int, int, int, int]

_ABSENT: Place = (0, 0)


# pointers and strides of q, k, v and out; sizes; places of tables, labels and padding: as C++ takes them
Described = tuple[tuple[int, ...], tuple[Strides, ...], tuple[int, ...], tuple[Place, ...]]


def prepare(call: Arguments, kept: list[Tensor]) -> tuple[Tensor, Tensor, Described]:
    """Memory for out [B, Nq, H, D] and maps [B, Nq, M], contiguous, and what C++ gets of all tensors but the maps.

    Args:
        call: Tables, labels, padding and read-out are copied where not contiguous or not fp32, int32 and bool.
        kept: Receives these copies, which must live until the kernel is done.
    """
    q, k, v, _, alpha, beta, gamma, delta, readout, query_labels, key_labels, key_padding = call
    samples, seqlen_q, heads, width = shape = q.shape
    columns, wide = call.columns, torch.float32
    out = q.new_empty(shape)
    maps = q.new_empty((samples, seqlen_q, columns), dtype=wide)
    pointers = (q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr())
    sizes = (samples, seqlen_q, k.shape[1], heads, k.shape[2], width, columns, *call.labels)
    places = (
        _ABSENT if alpha is None else _place(alpha, wide, kept),
        _ABSENT if beta is None else _place(beta, wide, kept),
        _ABSENT if gamma is None else _place(gamma, wide, kept),
        _ABSENT if delta is None else _place(delta, wide, kept),
        _ABSENT if readout is None else _place(readout, wide, kept),
        _ABSENT if query_labels is None else _place(query_labels, torch.int32, kept),
        _ABSENT if key_labels is None else _place(key_labels, torch.int32, kept),
        _ABSENT if key_padding is None else _place(key_padding, torch.bool, kept),
    )
    return out, maps, (pointers, (strides(q), strides(k), strides(v), strides(out)), sizes, places)


def strides(x: Tensor) -> Strides:
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


def _place(x: Tensor, dtype: torch.dtype, kept: list[Tensor]) -> Place:
    """Address and batch stride of ``x`` [B or 1, ...]; stride 0 shares the one entry among all samples."""
    if x.dtype != dtype or not x.is_contiguous():
        x = x.to(dtype).contiguous()
        kept.append(x)
    # of an empty tensor nothing is read, whatever its strides say
    return x.data_ptr(), 0 if x.shape[0] == 1 or not x.numel() else x.stride(0)
