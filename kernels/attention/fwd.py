"""Triton forward of ``attention``: what it returns, and which kernel makes it.

- fwd_short.py: up to 128 keys, whole rows of logits
- fwd_long.py: beyond, online softmax
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import launch
from .fwd_long import attention_fwd_long
from .fwd_short import attention_fwd_short
from .host import Call

# planes of ``Forward.rows``: the indices of these names in tiles.py
PLANES, PLANES_WITH_RANGE = 2, 6


class Forward(NamedTuple):
    """What forward computes.

    Attributes:
        out: [B, Nq, H, D] in the dtype of q.
        maps: [B, Nq, M] fp32.
        rows: [2, or 6 where a row has a range, B, H, Nq] fp32 words, planes as tiles.py names them; empty unless kept.
        reads: The read-outs before the mean over heads, [B, H, Nq, M] fp32.
    """

    out: Tensor
    maps: Tensor
    rows: Tensor
    reads: Tensor


def attention_fwd(call: Call, keep_rows: bool = False) -> Forward:
    """Attend.

    Args:
        call: The inputs, checked by the public function; float32, float16 or bfloat16.
        keep_rows: Whether backward will ask for ``rows``.

    Returns:
        ``Forward``; ``maps`` are the mean of ``reads`` over heads, summed in head order.
    """
    samples, seqlen_q, seqlen_k, heads, _ = call.sizes
    q = call.given.q
    out = q.new_empty(q.shape)
    # heads lie apart until they are averaged: a sum inside the kernel would need atomics, or starve small grids
    reads = q.new_empty((samples, heads, seqlen_q, call.given.columns), dtype=torch.float32)
    planes = PLANES_WITH_RANGE if call.has_range else PLANES
    rows = q.new_empty((planes, samples, heads, seqlen_q) if keep_rows else (0,), dtype=torch.float32)
    if not seqlen_k:
        return Forward(out.zero_(), reads.mean(1).zero_(), rows.fill_(torch.inf), reads.zero_())
    if out.numel():
        outputs = {"out_ptr": out, "reads_ptr": reads, "rows_ptr": rows if rows.numel() else None}
        if launch.choose_forward(seqlen_k) == "fwd_short":
            attention_fwd_short(call, outputs)
        else:
            attention_fwd_long(call, outputs)
    return Forward(out, reads[:, 0] if heads == 1 else reads.mean(1), rows, reads)
