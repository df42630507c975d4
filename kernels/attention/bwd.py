"""Triton backward of ``attention``: logits and probabilities are made again, tile by tile, from the row statistics.

- bwd_q.py: dq, and per row what the other kernels need
- bwd_kv.py: dk, dv, dW
- bwd_tables.py: the tables, whose gradients are rarely wanted

No atomics: each program owns what it writes, and parts of one sum are added afterwards in their order, so that the
same call gives the same bits. The gradient of a row's maximum goes to the first key that has it; forward kept which.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .bwd_kv import attention_bwd_kv
from .bwd_q import attention_bwd_q
from .bwd_tables import attention_bwd_tables
from .fwd import Forward
from .host import Call


class Backward(NamedTuple):
    """One gradient an input; empty where it was not asked for or there is no such input."""

    dq: Tensor
    dk: Tensor
    dv: Tensor
    dalpha: Tensor
    dbeta: Tensor
    dgamma: Tensor
    ddelta: Tensor
    dreadout: Tensor


def attention_bwd(
    call: Call, dout: Tensor, dmaps: Tensor, forward: Forward, table_gradients: bool, readout_gradient: bool
) -> Backward:
    """Gradients for what arrives at ``out`` and ``maps`` together.

    Args:
        call: The inputs of forward.
        dout: [B, Nq, H, D], dtype of q; copied unless it lies contiguously.
        dmaps: [B, Nq, M] fp32, likewise.
        forward: What ``attention_fwd(call, keep_rows=True)`` gave.
        table_gradients, readout_gradient: Whether these are wanted.
    """
    samples, seqlen_k = call.given.q.shape[0], call.given.k.shape[1]
    q, k, v = call.given.q, call.given.k, call.given.v
    wants_tables = table_gradients and call.has_tables
    dtables = tuple(_zeros_if(wants_tables, table, q) for table in call.given.tables)
    dreadout = _zeros_if(readout_gradient, call.given.readout, q)
    if not (q.numel() and seqlen_k):
        return Backward(*(x.new_zeros(x.shape) for x in (q, k, v)), *dtables, dreadout)

    arguments = call.arguments | {
        "dout_ptr": dout.contiguous(),
        "dmaps_ptr": dmaps.contiguous() if call.given.columns else None,
        "rows_ptr": forward.rows,
    }
    dq, arguments["terms_ptr"] = attention_bwd_q(call, arguments, forward)
    dk, dv, dw = attention_bwd_kv(call, arguments, dreadout.numel() > 0)
    if dreadout.numel():
        dreadout = dw.sum(0, keepdim=True) if dreadout.shape[0] < samples else dw
    if wants_tables:
        dtables = attention_bwd_tables(call, arguments)
    return Backward(dq, dk, dv, *dtables, dreadout)


def _zeros_if(wanted: bool, x: Tensor | None, q: Tensor) -> Tensor:
    return q.new_empty(0) if x is None or not wanted else x.new_zeros(x.shape)
