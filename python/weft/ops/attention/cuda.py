"""The CUDA C++ forward of ``attention``: when it applies, and from tensors to what ``weft._native`` takes.

The kernels at the small layers take a few microseconds, so this takes few tensor methods and copies nothing it need
not. It neither waits for the device nor allocates outside torch's allocator: a CUDA graph can capture it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft._native_loader import native
from weft.kernels.attention.arguments import Arguments
from weft.ops._cuda import refuse_machine
from weft.ops.attention.native import DTYPE_CODES, prepare, strides

HEAD_WIDTHS = (40, 64, 72, 80, 88, 96, 112, 128, 160, 256)
# as in csrc/attention: kMaxCudaTableBytes, kMaxColumns, kMaxTokenStride
MAX_TABLE_BYTES = 24 << 10
MAX_COLUMNS = 1 << 16
MAX_TOKEN_STRIDE = (2**31 - 1) // 256

DTYPES = (torch.float16, torch.bfloat16)


def refuse(call: Arguments) -> list[str]:
    """Why the CUDA kernels cannot take a call; empty if they can."""
    q, readout = call.q, call.readout
    if not q.is_cuda:
        # the first thing to say, and on a CPU the only one of use
        return [f"needs CUDA tensors; q is on {q.device}"]
    reasons = list(refuse_machine(q.device.index))
    if q.dtype not in DTYPES:
        reasons.append(f"needs float16 or bfloat16; q is {q.dtype}")
    if q.shape[3] not in HEAD_WIDTHS:
        reasons.append(f"needs D of {', '.join(map(str, HEAD_WIDTHS))}; D is {q.shape[3]}")
    for name, x in (("q", q), ("k", call.k), ("v", call.v)):
        if (stride := strides(x)[1]) > MAX_TOKEN_STRIDE:
            reasons.append(f"needs strides of at most {MAX_TOKEN_STRIDE} along tokens; {name} has {stride}")
    size = _table_bytes(call)
    if size > MAX_TABLE_BYTES:
        reasons.append(f"needs label tables that fit {MAX_TABLE_BYTES} bytes of shared memory; these take {size}")
    if readout is not None and readout.shape[2] > MAX_COLUMNS:
        reasons.append(f"needs M <= {MAX_COLUMNS}; M is {readout.shape[2]}")
    return reasons


def _table_bytes(call: Arguments) -> int:
    if all(table is None for table in call.tables):
        return 0
    labels_q, labels_k = call.labels
    ranged = call.beta is not None or call.gamma is not None
    return labels_q * (labels_k + 1) * (16 if ranged else 8)


def attention_fwd_cuda(call: Arguments) -> tuple[Tensor, Tensor]:
    """Run the CUDA kernels on a call that ``refuse`` accepts, on the current stream of their device.

    Args:
        call: Tables, labels, padding and read-out are copied where they are not contiguous or not fp32, int32 and
            bool; q, k and v never are. A label outside its table counts as the nearest inside.

    Returns:
        out [B, Nq, H, D] contiguous in the dtype of ``q``; maps [B, Nq, M] fp32.

    Raises:
        ValueError: A size, stride or pointer is impossible.
        RuntimeError: CUDA refuses; its message is passed on.
    """
    module = native()
    # copies made here stay until the kernels are queued; torch gives their memory out again in stream order only
    kept: list[Tensor] = []
    out, maps, described = prepare(call, kept)
    workspace_bytes = module.attention_cuda_workspace_bytes(described[2]) if call.columns else 0
    workspace = 0
    if workspace_bytes:
        kept.append(torch.empty(workspace_bytes, dtype=torch.uint8, device=out.device))
        workspace = kept[-1].data_ptr()
    module.attention_fwd_cuda(
        *described,
        maps.data_ptr(),
        call.scale,
        DTYPE_CODES[out.dtype],
        workspace,
        workspace_bytes,
        *_queue(out.device),
    )
    return out, maps


def _queue(device: torch.device) -> tuple[int, int]:
    """Index of ``device`` and its current stream."""
    return device.index, torch.cuda.current_stream(device).cuda_stream
