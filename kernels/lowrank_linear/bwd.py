"""Triton backward of ``lowrank_linear``: every gradient is a product that forward knows, or a sum of outer products.

        dh = dy B       dx = dy W + (dh * G) A      the op itself, on transposed matrices
        dA = (dh * G)^T x     dB = dy^T (h * G)     dW = dy^T x      sums over rows, in parts that are added in order
        dG = sum over ranks of dh * h               one small product with which rank is whose

Nothing is atomic, so a call has the same bits each time. h is made again: forward never has it in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from weft.kernels.common.device import run
from weft.kernels.common.grids import ceil_div, choose_splits, power_of_two
from weft.kernels.common.strides import strides

from .arguments import Arguments
from .fwd import Shrunk, project, shrink
from .host import Call, concept_of_rank
from .tiles import dot, load_tile, row_offsets

# tiles of the kernel of the gate: it reads two numbers a rank and adds them, whatever the device
GATE_ROWS, GATE_RANKS = 32, 32


@triton.jit
def _lowrank_linear_bwd_outer_kernel(
    # inputs
    p_ptr,  # [B, N, P]
    q_ptr,  # [B, N, Q]
    # outputs
    out_ptr,  # [parts, P, Q]
    # sizes and scalars
    stride_p_b,
    stride_p_n,
    stride_p_c,
    stride_q_b,
    stride_q_n,
    stride_q_c,
    M,
    N,
    P,
    Q,
    steps,  # of BLOCK_K rows, a part
    # compile-time
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    across = tl.cdiv(Q, BLOCK_N)
    tiles = tl.cdiv(P, BLOCK_M) * across
    tile, part = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    p_columns = (tile // across) * BLOCK_M + tl.arange(0, BLOCK_M)
    q_columns = (tile % across) * BLOCK_N + tl.arange(0, BLOCK_N)

    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in range(part * steps, part * steps + steps):
        rows = step * BLOCK_K + tl.arange(0, BLOCK_K)
        inside = rows < M
        p = load_tile(p_ptr, row_offsets(rows, N, stride_p_b, stride_p_n), p_columns, stride_p_c, inside, P, False)
        q = load_tile(q_ptr, row_offsets(rows, N, stride_q_b, stride_q_n), q_columns, stride_q_c, inside, Q, False)
        total = dot(tl.trans(p), q, total)

    at = out_ptr + (part.to(tl.int64) * P + p_columns[:, None]) * Q + q_columns[None, :]
    tl.store(at, total.to(out_ptr.dtype.element_ty), mask=(p_columns[:, None] < P) & (q_columns[None, :] < Q))


@triton.jit
def _lowrank_linear_bwd_gate_kernel(
    # inputs
    dh_ptr,  # [M, R] fp32
    h_ptr,  # [M, R] fp32
    concept_ptr,  # [R] int32
    # outputs
    dgate_ptr,  # [M, K] fp32
    # sizes and scalars
    M,
    R,
    K,
    # compile-time
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    row_tiles = tl.cdiv(M, BLOCK_M)
    rows = (tl.program_id(0) % row_tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    concepts = (tl.program_id(0) // row_tiles) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for start in range(0, R, BLOCK_R):
        ranks = start + tl.arange(0, BLOCK_R)
        at = rows.to(tl.int64)[:, None] * R + ranks[None, :]
        mask = (rows[:, None] < M) & (ranks[None, :] < R)
        products = tl.load(dh_ptr + at, mask=mask, other=0.0) * tl.load(h_ptr + at, mask=mask, other=0.0)
        concept = tl.load(concept_ptr + ranks, mask=ranks < R, other=-1)
        total = dot(products, (concept[:, None] == concepts[None, :]).to(tl.float32), total)
    at = rows.to(tl.int64)[:, None] * K + concepts[None, :]
    tl.store(dgate_ptr + at, total, mask=(rows[:, None] < M) & (concepts[None, :] < K))


def lowrank_linear_bwd(call: Call, dy: Tensor, wanted: Mapping[str, bool]) -> dict[str, Tensor]:
    """Differentiate.

    Args:
        call: The inputs of forward; ``bias``, ``residual`` and ``base`` are not read.
        dy: [B, N, Cout], any strides.
        wanted: By name, x, weight, bias, down, up and gate: which gradients to compute.

    Returns:
        Those by the same names, each shaped as its input, in its dtype.
    """
    found: dict[str, Tensor] = {}
    if wanted["bias"]:
        found["bias"] = dy.sum((0, 1))
    if wanted["weight"]:
        found["weight"] = _sum_of_outer(call, dy, call.given.x)
    back, through = _reversed(call, dy), None
    if call.rank and (wanted["down"] or wanted["gate"] or (wanted["x"] and back.form == "append")):
        # what no gate opens is skipped only where dx alone reads it
        skip = not (wanted["down"] or wanted["gate"])
        through = shrink(back, keep_raw=wanted["gate"], skip_closed=skip)
    if wanted["x"]:
        found["x"] = _input_gradient(call, back, through)
    if wanted["down"]:
        assert through is not None
        found["down"] = _sum_of_outer(call, through.gated, call.given.x)
    if wanted["up"] or wanted["gate"]:
        made = shrink(call, keep_raw=wanted["gate"], skip_closed=False)
        if wanted["up"]:
            found["up"] = _sum_of_outer(call, dy, made.gated)
        if wanted["gate"]:
            assert through is not None
            found["gate"] = _gate_gradient(call, through, made)
    return found


def _reversed(call: Call, dy: Tensor) -> Call:
    """The call whose result is dx: every matrix transposed, the factors exchanged."""
    weight, down, up = (None if x is None else x.T for x in (call.given.weight, call.given.up, call.given.down))
    turned = Arguments(dy, weight, None, down, up, call.given.ranks, call.given.gate)
    return Call(turned, forced_form=call.forced_form)


def _input_gradient(call: Call, back: Call, through: Shrunk | None) -> Tensor:
    dx = call.given.x.new_empty(call.given.x.shape)
    if back.given.weight is None and back.given.down is None:
        return dx.zero_()
    if dx.numel():
        project(back, dx, through)
    return dx


def _sum_of_outer(call: Call, p: Tensor, q: Tensor) -> Tensor:
    """Sum over samples and rows of p^T q, [B, N, P] and [B, N, Q] to [P, Q] in the dtype of ``q``."""
    height, width = p.shape[2], q.shape[2]
    tile = call.tile("outer", height, width)
    tiles = ceil_div(height, tile.block_m) * ceil_div(width, tile.block_n)
    steps = ceil_div(call.rows, tile.block_k)
    each = ceil_div(steps, choose_splits(tiles, steps))
    parts = ceil_div(steps, each) if each else 0
    if not parts:
        return q.new_zeros(height, width)
    out = q.new_empty((parts, height, width), dtype=q.dtype if parts == 1 else torch.float32)
    run(
        _lowrank_linear_bwd_outer_kernel,
        tiles * parts,
        p_ptr=p,
        q_ptr=q,
        out_ptr=out,
        **strides("p", p, "bnc"),
        **strides("q", q, "bnc"),
        M=call.rows,
        N=call.given.x.shape[1],
        P=height,
        Q=width,
        steps=each,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        BLOCK_K=tile.block_k,
        **tile.options,
    )
    return out[0] if parts == 1 else out.sum(0).to(q.dtype)


def _gate_gradient(call: Call, through: Shrunk, made: Shrunk) -> Tensor:
    """sum over the ranks of each concept of dh * h, and over the axes that the gate shares."""
    assert through.raw is not None and made.raw is not None and call.given.gate is not None
    samples, rows, concepts = *call.given.x.shape[:2], len(call.given.ranks)
    dgate = call.given.gate.new_empty(samples, rows, concepts)
    block_c = power_of_two(min(concepts, 32))
    if dgate.numel():
        run(
            _lowrank_linear_bwd_gate_kernel,
            ceil_div(call.rows, GATE_ROWS) * ceil_div(concepts, block_c),
            dh_ptr=through.raw,
            h_ptr=made.raw,
            concept_ptr=concept_of_rank(call.given.ranks, call.given.x.device),
            dgate_ptr=dgate,
            M=call.rows,
            R=call.rank,
            K=concepts,
            BLOCK_M=GATE_ROWS,
            BLOCK_R=GATE_RANKS,
            BLOCK_C=block_c,
            num_warps=4,
            num_stages=1,
            enable_fp_fusion=False,
        )
    shared = [axis for axis in (0, 1) if call.given.gate.shape[axis] != dgate.shape[axis]]
    return dgate.sum(shared, keepdim=True) if shared else dgate
