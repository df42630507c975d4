"""The C++ forward of ``attention``: when it applies, and its call."""

from __future__ import annotations

import torch
from torch import Tensor

from weft._native_loader import native, why_not_native
from weft.kernels.attention.arguments import Arguments
from weft.ops.attention.native import DTYPE_CODES, prepare

MAX_HEAD_WIDTH = 256


def refuse(call: Arguments) -> list[str]:
    """Why the CPU kernel cannot take a call; empty if it can."""
    q, reasons = call.q, []
    missing = why_not_native()
    if missing is not None:
        reasons.append(missing)
    for name, x in (("q", q), ("k", call.k), ("v", call.v)):
        if x.device.type != "cpu":
            reasons.append(f"needs CPU tensors; {name} is on {x.device}")
        if x.dtype not in DTYPE_CODES:
            reasons.append(f"needs float32, float16 or bfloat16; {name} is {x.dtype}")
        if x.stride(-1) != 1 and x.shape[-1] > 1 and x.numel() > 0:
            reasons.append(f"needs unit stride along D; {name} has strides {tuple(x.stride())}")
    if q.shape[-1] > MAX_HEAD_WIDTH:
        reasons.append(f"needs D <= {MAX_HEAD_WIDTH}; D is {q.shape[-1]}")
    return reasons


def attention_fwd_cpu(call: Arguments, *, num_threads: int | None = None, isa: str = "auto") -> tuple[Tensor, Tensor]:
    """Run the CPU kernel on a call that ``refuse`` accepts.

    Args:
        call: Tables, labels, padding and read-out are copied where they are not contiguous or not fp32, int32 and
            bool; q, k and v never are.
        num_threads: Workers, by default ``torch.get_num_threads()``. The result does not depend on it.
        isa: An instruction set of ``weft._native.instruction_sets()``, or "auto" for the strongest here.

    Returns:
        out [B, Nq, H, D] contiguous in the dtype of ``q``; maps [B, Nq, M] fp32.

    Raises:
        ValueError: A label is outside its table, a size is impossible, or ``isa`` cannot run here.
    """
    kept: list[Tensor] = []
    out, maps, described = prepare(call, kept)
    native().attention_fwd_cpu(
        *described,
        maps.data_ptr(),
        call.scale,
        DTYPE_CODES[out.dtype],
        num_threads or torch.get_num_threads(),
        isa,
    )
    return out, maps
