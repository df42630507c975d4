"""Triton forward of ``lowrank_linear``: the base product, with the concepts added before the one rounding.

Two forms. *recompute*: each program makes x A^T for its rows beside its tile of x W^T, from the same tile of x, so
nothing but the factors is read that the layer alone does not read. *append*: ``shrink`` makes x A^T * G once, and the
base product's sum runs on over the ranks. Traffic: x, W, the addends and y once; append reads x twice.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from weft.kernels.common.device import run
from weft.kernels.common.grids import ceil_div, power_of_two
from weft.kernels.common.strides import strides

from . import launch
from .host import Call
from .tiles import dot, load_gate, load_matrix, load_tile, row_offsets, store_tile


class Shrunk(NamedTuple):
    """x A^T of a call.

    Attributes:
        gated: x A^T * G, [B, N, R] in the dtype of x; undefined in tiles whose flag is 0.
        flags: int32 [tiles of rows, tiles of ranks], 0 where every gate of the tile is; None if all are written.
        raw: x A^T, [B, N, R] fp32, if it was asked for.
        block_m, block_r: Sizes of a tile.
    """

    gated: Tensor
    flags: Tensor | None
    raw: Tensor | None
    block_m: int
    block_r: int


@triton.jit
def _lowrank_linear_shrink_kernel(
    # inputs
    x_ptr,  # [B, N, CIN]
    down_ptr,  # [R, CIN]
    gate_ptr,  # [B or 1, N or 1, K] fp32 or None
    concept_ptr,  # [R] int32 or None
    # outputs
    gated_ptr,  # [B * N, R]
    raw_ptr,  # [B * N, R] fp32 or None
    flags_ptr,  # [tiles of rows, tiles of ranks] int32 or None
    # sizes and scalars
    stride_x_b,
    stride_x_n,
    stride_x_c,
    stride_down_r,
    stride_down_c,
    stride_gate_b,
    stride_gate_n,
    stride_gate_k,
    M,
    N,
    CIN,
    R,
    # compile-time
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FULL_K: tl.constexpr,
):
    row_tiles = tl.cdiv(M, BLOCK_M)
    row_tile, rank_tile = tl.program_id(0) % row_tiles, tl.program_id(0) // row_tiles
    rows = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = rows < M
    ranks = rank_tile * BLOCK_R + tl.arange(0, BLOCK_R)

    is_open = 1
    if gate_ptr is not None:
        gate_at = row_offsets(rows, N, stride_gate_b, stride_gate_n)
        gate = load_gate(gate_ptr, concept_ptr, gate_at, ranks, inside, stride_gate_k, R)
        if flags_ptr is not None:
            is_open = tl.max(tl.max((gate != 0.0).to(tl.int32), axis=1), axis=0)
            tl.store(flags_ptr + row_tile * tl.cdiv(R, BLOCK_R) + rank_tile, is_open)
    if is_open > 0:
        x_at = row_offsets(rows, N, stride_x_b, stride_x_n)
        h = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
        for start in range(0, CIN, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            x = load_tile(x_ptr, x_at, k, stride_x_c, inside, CIN, FULL_K)
            a = load_matrix(down_ptr, k, stride_down_c, CIN, ranks, stride_down_r, R, FULL_K)
            h = dot(x, a, h)
        at = rows.to(tl.int64) * R
        if raw_ptr is not None:
            store_tile(raw_ptr, at, ranks, 1, inside, R, h)
        if gate_ptr is not None:
            h = h * gate
        store_tile(gated_ptr, at, ranks, 1, inside, R, h)


@triton.jit
def _finish(
    y,
    rows,
    inside,
    columns,
    bias_ptr,
    residual_ptr,
    base_ptr,
    y_ptr,
    stride_residual_b,
    stride_residual_n,
    stride_residual_c,
    stride_base_b,
    stride_base_n,
    stride_base_c,
    stride_y_b,
    stride_y_n,
    stride_y_c,
    N,
    COUT,
):
    """Add the bias and what else is added, round and store."""
    if bias_ptr is not None:
        y += tl.load(bias_ptr + columns, mask=columns < COUT, other=0.0).to(tl.float32)[None, :]
    if base_ptr is not None:
        at = row_offsets(rows, N, stride_base_b, stride_base_n)
        y += load_tile(base_ptr, at, columns, stride_base_c, inside, COUT, False).to(tl.float32)
    if residual_ptr is not None:
        at = row_offsets(rows, N, stride_residual_b, stride_residual_n)
        y += load_tile(residual_ptr, at, columns, stride_residual_c, inside, COUT, False).to(tl.float32)
    store_tile(y_ptr, row_offsets(rows, N, stride_y_b, stride_y_n), columns, stride_y_c, inside, COUT, y)


@triton.jit
def _lowrank_linear_project_kernel(
    # inputs
    x_ptr,  # [B, N, CIN]
    weight_ptr,  # [COUT, CIN] or None
    bias_ptr,  # [COUT] or None
    down_ptr,  # [R, CIN]; None unless x A^T is made here
    up_ptr,  # [COUT, R] or None
    gate_ptr,  # [B or 1, N or 1, K] fp32; None without gates and where ``gated`` has them
    concept_ptr,  # [R] int32 or None
    gated_ptr,  # [B * N, R], what ``shrink`` made, or None
    flags_ptr,  # [tiles of rows, tiles of ranks] int32 or None
    residual_ptr,  # [B, N, COUT] or None
    base_ptr,  # [B, N, COUT] or None
    # outputs
    y_ptr,  # [B, N, COUT]
    # sizes and scalars
    stride_x_b,
    stride_x_n,
    stride_x_c,
    stride_weight_o,
    stride_weight_c,
    stride_down_r,
    stride_down_c,
    stride_up_o,
    stride_up_r,
    stride_gate_b,
    stride_gate_n,
    stride_gate_k,
    stride_residual_b,
    stride_residual_n,
    stride_residual_c,
    stride_base_b,
    stride_base_n,
    stride_base_c,
    stride_y_b,
    stride_y_n,
    stride_y_c,
    M,
    N,
    CIN,
    COUT,
    R,
    # compile-time
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_R: tl.constexpr,
    FLAG_ROWS: tl.constexpr,  # rows of a tile of ``flags``, at most BLOCK_M
    TILES: tl.constexpr,  # tiles of columns that a program does in turn; 1 beside a weight
    GROUP: tl.constexpr,
    FULL_K: tl.constexpr,
):
    # programs that run together share rows of x and columns of W
    row_tiles = tl.cdiv(M, BLOCK_M)
    in_group = GROUP * tl.cdiv(COUT, BLOCK_N * TILES)
    first = (tl.program_id(0) // in_group) * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    row_tile = first + (tl.program_id(0) % in_group) % height
    column_tile = (tl.program_id(0) % in_group) // height
    rows = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = rows < M
    columns = column_tile * TILES * BLOCK_N + tl.arange(0, BLOCK_N)

    # --- x W^T, and x A^T beside it
    y = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    h = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
    ranks = tl.arange(0, BLOCK_R)
    if (weight_ptr is not None) or (down_ptr is not None):
        x_at = row_offsets(rows, N, stride_x_b, stride_x_n)
        for start in range(0, CIN, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            x = load_tile(x_ptr, x_at, k, stride_x_c, inside, CIN, FULL_K)
            if weight_ptr is not None:
                w = load_matrix(weight_ptr, k, stride_weight_c, CIN, columns, stride_weight_o, COUT, FULL_K)
                y = dot(x, w, y)
            if down_ptr is not None:
                a = load_matrix(down_ptr, k, stride_down_c, CIN, ranks, stride_down_r, R, FULL_K)
                h = dot(x, a, h)
    if gate_ptr is not None:
        gate_at = row_offsets(rows, N, stride_gate_b, stride_gate_n)
        h = h * load_gate(gate_ptr, concept_ptr, gate_at, ranks, inside, stride_gate_k, R)
    weights = h.to(y_ptr.dtype.element_ty)

    for tile in range(TILES):
        columns = (column_tile * TILES + tile) * BLOCK_N + tl.arange(0, BLOCK_N)
        if TILES > 1:
            y = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        if down_ptr is not None:
            b = load_matrix(up_ptr, ranks, stride_up_r, R, columns, stride_up_o, COUT, False)
            y = dot(weights, b, y)
        if gated_ptr is not None:
            for start in range(0, R, BLOCK_R):
                r = start + tl.arange(0, BLOCK_R)
                is_open = 1
                if flags_ptr is not None:
                    tiles = row_tile * (BLOCK_M // FLAG_ROWS) + tl.arange(0, BLOCK_M // FLAG_ROWS)
                    at = flags_ptr + tiles * tl.cdiv(R, BLOCK_R) + start // BLOCK_R
                    is_open = tl.max(tl.load(at, mask=tiles < tl.cdiv(M, FLAG_ROWS), other=0), axis=0)
                if is_open > 0:
                    here = inside
                    if flags_ptr is not None:
                        # a closed tile beside an open one was never written
                        flag_at = flags_ptr + (rows // FLAG_ROWS) * tl.cdiv(R, BLOCK_R) + start // BLOCK_R
                        here = inside & (tl.load(flag_at, mask=inside, other=0) > 0)
                    g = load_tile(gated_ptr, rows.to(tl.int64) * R, r, 1, here, R, False)
                    b = load_matrix(up_ptr, r, stride_up_r, R, columns, stride_up_o, COUT, False)
                    y = dot(g, b, y)
        _finish(
            y,
            rows,
            inside,
            columns,
            bias_ptr,
            residual_ptr,
            base_ptr,
            y_ptr,
            stride_residual_b,
            stride_residual_n,
            stride_residual_c,
            stride_base_b,
            stride_base_n,
            stride_base_c,
            stride_y_b,
            stride_y_n,
            stride_y_c,
            N,
            COUT,
        )


def lowrank_linear_fwd(call: Call) -> Tensor:
    """Project.

    Args:
        call: The inputs, checked by the public function; float32, float16 or bfloat16.

    Returns:
        [B, N, Cout] or [B, Cout, N], contiguous.
    """
    x, width_out, channels_first = call.given.x, call.given.width_out, call.given.channels_first
    samples, rows, _ = x.shape
    y = x.new_empty((samples, width_out, rows) if channels_first else (samples, rows, width_out))
    if y.numel():
        project(call, y.transpose(1, 2) if channels_first else y, shrink(call) if call.form == "append" else None)
    return y


def shrink(call: Call, keep_raw: bool = False, skip_closed: bool = True) -> Shrunk:
    """x A^T * G of all rows.

    Args:
        call: The inputs, with concepts.
        keep_raw: Whether x A^T without G is kept too.
        skip_closed: Whether tiles that no gate opens are left undefined, and ``flags`` say so.
    """
    assert call.given.down is not None
    samples, rows, width_in = call.given.x.shape
    tile = call.tile("shrink", call.rows, call.rank)
    tiles = (ceil_div(call.rows, tile.block_m), ceil_div(call.rank, tile.block_n))
    gated = call.given.x.new_empty(samples, rows, call.rank)
    raw = call.given.x.new_empty(gated.shape, dtype=torch.float32) if keep_raw else None
    flags = call.given.x.new_empty(tiles, dtype=torch.int32) if call.given.gate is not None and skip_closed else None
    if gated.numel():
        run(
            _lowrank_linear_shrink_kernel,
            tiles[0] * tiles[1],
            x_ptr=call.given.x,
            down_ptr=call.given.down,
            gated_ptr=gated,
            raw_ptr=raw,
            flags_ptr=flags,
            **call.gate_arguments(),
            **strides("x", call.given.x, "bnc"),
            **strides("down", call.given.down, "rc"),
            M=call.rows,
            N=rows,
            CIN=width_in,
            R=call.rank,
            BLOCK_M=tile.block_m,
            BLOCK_R=tile.block_n,
            BLOCK_K=tile.block_k,
            FULL_K=width_in % tile.block_k == 0,
            **tile.options,
        )
    return Shrunk(gated, flags, raw, tile.block_m, tile.block_n)


def project(call: Call, y: Tensor, shrunk: Shrunk | None) -> None:
    """Write y [B, N, Cout]: the base product, and the concepts as ``shrunk`` holds them or made here if it is None."""
    tile = call.tile("project", call.rows, call.given.width_out)
    row_tiles, column_tiles = (
        ceil_div(length, block) for length, block in ((call.rows, tile.block_m), (call.given.width_out, tile.block_n))
    )
    recompute = call.rank > 0 and shrunk is None
    assert shrunk is None or tile.block_m % shrunk.block_m == 0, "a tile of rows must hold whole tiles of flags"
    tiles = launch.choose_tiles_per_program(row_tiles, column_tiles) if call.given.weight is None else 1
    gates = call.gate_arguments()
    if not recompute:
        gates |= {"gate_ptr": None, "concept_ptr": None}
    run(
        _lowrank_linear_project_kernel,
        row_tiles * ceil_div(column_tiles, tiles),
        x_ptr=call.given.x,
        weight_ptr=call.given.weight,
        bias_ptr=call.given.bias,
        down_ptr=call.given.down if recompute else None,
        up_ptr=call.given.up,
        gated_ptr=None if shrunk is None else shrunk.gated,
        flags_ptr=None if shrunk is None else shrunk.flags,
        residual_ptr=call.given.residual,
        base_ptr=call.given.base,
        y_ptr=y,
        **gates,
        **strides("x", call.given.x, "bnc"),
        **strides("weight", call.given.weight, "oc"),
        **strides("down", call.given.down, "rc"),
        **strides("up", call.given.up, "or"),
        **strides("residual", call.given.residual, "bnc"),
        **strides("base", call.given.base, "bnc"),
        **strides("y", y, "bnc"),
        M=call.rows,
        N=call.given.x.shape[1],
        CIN=call.given.x.shape[2],
        COUT=call.given.width_out,
        R=call.rank,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        BLOCK_K=tile.block_k,
        BLOCK_R=power_of_two(call.rank) if shrunk is None else shrunk.block_r,
        FLAG_ROWS=tile.block_m if shrunk is None else shrunk.block_m,
        TILES=tiles,
        GROUP=launch.GROUP,
        FULL_K=call.given.x.shape[2] % tile.block_k == 0,
        **tile.options,
    )
