"""The CUDA C++ forward of ``attention``: when it applies, and from tensors to what ``weft._native`` takes.

The kernels at the small layers take a few microseconds, so this takes few tensor methods and copies nothing it need
not. It neither waits for the device nor allocates outside torch's allocator: a CUDA graph can capture it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft._native_loader import native
from weft.ops._cuda import refuse_machine
from weft.ops.attention.cpu import _ABSENT, _place, _strides

HEAD_WIDTHS = (40, 64, 80, 128, 160)
# as in csrc/attention: kMaxCudaTableBytes, kMaxColumns, kMaxTokenStride
MAX_TABLE_BYTES = 24 << 10
MAX_COLUMNS = 1 << 16
MAX_TOKEN_STRIDE = (2**31 - 1) // 256

_DTYPE_CODES = {torch.float16: 1, torch.bfloat16: 2}


def refuse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    alpha: Tensor | None = None,
    beta: Tensor | None = None,
    gamma: Tensor | None = None,
    delta: Tensor | None = None,
    readout: Tensor | None = None,
    *labels: Tensor | None,
) -> list[str]:
    """Why the CUDA kernels cannot take a call of ``attention_fwd_cuda``; empty if they can."""
    if not q.is_cuda:
        # the first thing to say, and on a CPU the only one of use
        return [f"needs CUDA tensors; q is on {q.device}"]
    reasons = list(refuse_machine(q.device.index))
    if q.dtype not in _DTYPE_CODES:
        reasons.append(f"needs float16 or bfloat16; q is {q.dtype}")
    if q.shape[3] not in HEAD_WIDTHS:
        reasons.append(f"needs D of {', '.join(map(str, HEAD_WIDTHS))}; D is {q.shape[3]}")
    for name, x in (("q", q), ("k", k), ("v", v)):
        if (stride := _strides(x)[1]) > MAX_TOKEN_STRIDE:
            reasons.append(f"needs strides of at most {MAX_TOKEN_STRIDE} along tokens; {name} has {stride}")
    size = _table_bytes(alpha, beta, gamma, delta)
    if size > MAX_TABLE_BYTES:
        reasons.append(f"needs label tables that fit {MAX_TABLE_BYTES} bytes of shared memory; these take {size}")
    if readout is not None and readout.shape[2] > MAX_COLUMNS:
        reasons.append(f"needs M <= {MAX_COLUMNS}; M is {readout.shape[2]}")
    return reasons


def _table_bytes(alpha: Tensor | None, beta: Tensor | None, gamma: Tensor | None, delta: Tensor | None) -> int:
    for table in (alpha, beta, gamma, delta):
        if table is not None:
            ranged = beta is not None or gamma is not None
            return table.shape[1] * (table.shape[2] + 1) * (16 if ranged else 8)
    return 0


def attention_fwd_cuda(
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
) -> tuple[Tensor, Tensor]:
    """Run the CUDA kernels on inputs that ``refuse`` accepts, on the current stream of their device.

    Args:
        q, k, v, scale, alpha, beta, gamma, delta, readout, query_labels, key_labels, key_padding: As in
            ``attention_reference``. Tables, labels, padding and read-out are copied where they are not contiguous or
            not fp32, int32 and bool; q, k and v never are. A label outside its table counts as the nearest inside.

    Returns:
        out [B, Nq, H, D] contiguous in the dtype of ``q``; maps [B, Nq, M] fp32.

    Raises:
        ValueError: A size, stride or pointer is impossible.
        RuntimeError: CUDA refuses; its message is told.
    """
    module = native()
    samples, seqlen_q, heads, width = q.shape
    device = q.device
    out = torch.empty(q.shape, dtype=q.dtype, device=device)
    columns = 0 if readout is None else readout.shape[2]
    maps = torch.empty((samples, seqlen_q, columns), dtype=torch.float32, device=device)
    labels_q, labels_k = 1, 1
    for table in (alpha, beta, gamma, delta):
        if table is not None:
            _, labels_q, labels_k = table.shape
            break

    # copies made here stay until the kernels are queued; torch gives their memory out again in stream order only
    kept: list[Tensor] = []
    tables = (
        *(_ABSENT if t is None else _place(t, torch.float32, kept) for t in (alpha, beta, gamma, delta, readout)),
        *(_ABSENT if t is None else _place(t, torch.int32, kept) for t in (query_labels, key_labels)),
        _ABSENT if key_padding is None else _place(key_padding, torch.bool, kept),
    )
    sizes = (samples, seqlen_q, k.shape[1], heads, width, columns, labels_q, labels_k)
    workspace_bytes = module.attention_cuda_workspace_bytes(sizes) if columns else 0
    workspace = 0
    if workspace_bytes:
        kept.append(torch.empty(workspace_bytes, dtype=torch.uint8, device=device))
        workspace = kept[-1].data_ptr()
    module.attention_fwd_cuda(
        (q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr()),
        (_strides(q), _strides(k), _strides(v), _strides(out)),
        sizes,
        tables,
        maps.data_ptr(),
        scale,
        _DTYPE_CODES[q.dtype],
        workspace,
        workspace_bytes,
        *_queue(device),
    )
    return out, maps


def _queue(device: torch.device) -> tuple[int, int]:
    """Index of ``device`` and its current stream."""
    return device.index, torch.cuda.current_stream(device).cuda_stream
