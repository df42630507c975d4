"""Triton forward of ``attention`` over at most 128 keys: a whole row of logits is one tile.

One program a head and a few tiles of queries. Its extremes are known at once and nothing is done twice.
Traffic: reads q once, k and v once a program (from L2); writes out and, per head, M fp32 values a query.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from weft.kernels.common.device import run

from . import launch
from .host import VARYING, Call
from .tiles import (
    BOTTOM,
    BOTTOM_KEY,
    TOP,
    TOP_KEY,
    dot_fp32,
    edit_tile,
    find_stray_keys,
    first_key,
    has_strays,
    keep_keys,
    load_key_rows,
    load_labels,
    load_parts,
    load_readout,
    load_rows,
    load_rows_where,
    locate,
    logits,
    only_finite,
    sort_keys,
    spoil,
    store_extreme,
    store_rows,
    store_sums,
    without_padding,
)


@triton.jit(do_not_specialize=VARYING)
def _attention_fwd_short_kernel(
    # inputs
    q_ptr,  # [B, Nq, H, D]
    k_ptr,  # [B, Nk, H / GROUP, D]
    v_ptr,  # [B, Nk, H / GROUP, D]
    alpha_ptr,  # [B or 1, LQ, LK] fp32 or None, likewise the next three
    beta_ptr,
    gamma_ptr,
    delta_ptr,
    readout_ptr,  # [B or 1, Nk, M] fp32 or None
    query_labels_ptr,  # [B or 1, Nq] int32 or None
    key_labels_ptr,  # [B or 1, Nk] int32 or None
    key_padding_ptr,  # [B or 1, Nk] uint8 or None
    # outputs
    out_ptr,  # [B, Nq, H, D]
    reads_ptr,  # [B, H, Nq, M] fp32
    rows_ptr,  # [planes, B, H, Nq] 32-bit words, or None
    # strides; those of q, k and v in units of ALIGN values
    stride_q_b,
    stride_q_n,
    stride_q_h,
    stride_k_b,
    stride_k_n,
    stride_k_h,
    stride_v_b,
    stride_v_n,
    stride_v_h,
    stride_alpha_b,
    stride_beta_b,
    stride_gamma_b,
    stride_delta_b,
    stride_readout_b,
    stride_readout_k,
    stride_readout_m,
    stride_query_labels_b,
    stride_key_labels_b,
    stride_key_padding_b,
    # sizes and scalars
    H,
    GROUP,
    Nq,
    Nk,
    M,
    LQ,
    LK,
    scale,
    # compile-time
    ALIGN: tl.constexpr,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TILES: tl.constexpr,
    FULL_K: tl.constexpr,
    LOOKUP: tl.constexpr,
    LABELS: tl.constexpr,
    PART: tl.constexpr,
):
    program, head, sample, samples = locate(tl.cdiv(Nq, BLOCK_Q * TILES), H)
    q_ptr += (sample * stride_q_b + head.to(tl.int64) * stride_q_h) * ALIGN
    k_ptr += (sample * stride_k_b + (head // GROUP).to(tl.int64) * stride_k_h) * ALIGN
    v_ptr += (sample * stride_v_b + (head // GROUP).to(tl.int64) * stride_v_h) * ALIGN
    out_ptr += (sample * Nq * H + head) * D

    if key_padding_ptr is not None:
        key_padding_ptr += sample * stride_key_padding_b
    keys = tl.arange(0, BLOCK_K)
    k0 = load_rows(k_ptr, keys, stride_k_n * ALIGN, Nk, 0, FIRST, D, FULL_K)
    # keys whose values are not finite are not loaded: rows that do not see them must not meet them in a product. To
    # select after the load would keep V in registers
    stray = 0
    if delta_ptr is not None:
        present, strays = sort_keys(v_ptr, keys, stride_v_n * ALIGN, Nk, key_padding_ptr, D)
        stray = tl.max(strays)
        v0 = load_rows_where(v_ptr, keys, stride_v_n * ALIGN, present, 0, FIRST, D)
    else:
        v0 = load_key_rows(v_ptr, keys, stride_v_n * ALIGN, Nk, key_padding_ptr, 0, FIRST, D, FULL_K)
    k1, v1 = k0, v0
    if SECOND > 0:
        k1 = load_rows(k_ptr, keys, stride_k_n * ALIGN, Nk, FIRST, SECOND, D, FULL_K)
        if delta_ptr is not None:
            v1 = load_rows_where(v_ptr, keys, stride_v_n * ALIGN, present, FIRST, SECOND, D)
        else:
            v1 = load_key_rows(v_ptr, keys, stride_v_n * ALIGN, Nk, key_padding_ptr, FIRST, SECOND, D, FULL_K)
    stray_w = 0
    if readout_ptr is not None:
        readout_ptr += sample * stride_readout_b
        w = load_readout(readout_ptr, keys, stride_readout_k, stride_readout_m, Nk, M, BLOCK_M)
        w = without_padding(w, keys, Nk, key_padding_ptr)
        if delta_ptr is not None:
            stray_w = has_strays(w)
            w = only_finite(w)
    c = 0
    if key_labels_ptr is not None:
        c = load_labels(key_labels_ptr + sample * stride_key_labels_b, keys, Nk, LK)[None, :]
    if alpha_ptr is not None:
        alpha_ptr += sample * stride_alpha_b
    if beta_ptr is not None:
        beta_ptr += sample * stride_beta_b
    if gamma_ptr is not None:
        gamma_ptr += sample * stride_gamma_b
    if delta_ptr is not None:
        delta_ptr += sample * stride_delta_b

    for i in range(TILES):
        queries = (program * TILES + i) * BLOCK_Q + tl.arange(0, BLOCK_Q)
        q0, q1 = load_parts(q_ptr, queries, stride_q_n * ALIGN, Nq, FIRST, SECOND, D, False)
        r = 0
        if query_labels_ptr is not None:
            r = load_labels(query_labels_ptr + sample * stride_query_labels_b, queries, Nq, LQ)[:, None]

        s = logits(q0, q1, k0, k1, scale, SECOND, PART)  # [BLOCK_Q, BLOCK_K]

        top, bottom = 0.0, 0.0
        if (beta_ptr is not None) or (gamma_ptr is not None):
            removed = keep_keys(s, keys[None, :], Nk, key_padding_ptr, float("-inf"), FULL_K) == float("-inf")
            if delta_ptr is not None:
                only_delta = edit_tile(s, 0.0, 0.0, r, c, None, None, None, delta_ptr, LK, LOOKUP, LABELS)
                removed = removed | (only_delta == float("-inf"))
            nobody = tl.min(removed.to(tl.int32), axis=1)[:, None] > 0
        if beta_ptr is not None:
            kept = tl.where(removed, float("-inf"), s)
            top = tl.max(kept, axis=1)[:, None]
            top_key = first_key(kept, top, keys[None, :])
            # an infinity would meet a table entry of 0
            top = tl.where(nobody, 0.0, top)
        if gamma_ptr is not None:
            kept = tl.where(removed, float("inf"), s)
            bottom = tl.min(kept, axis=1)[:, None]
            bottom_key = first_key(kept, bottom, keys[None, :])
            bottom = tl.where(nobody, 0.0, bottom)

        x = edit_tile(s, top, bottom, r, c, alpha_ptr, beta_ptr, gamma_ptr, delta_ptr, LK, LOOKUP, LABELS)
        x = keep_keys(x, keys[None, :], Nk, key_padding_ptr, float("-inf"), FULL_K)
        largest = tl.max(x, axis=1)[:, None]
        # a row without a valid key: exp2(-inf - 0) is 0, exp2(-inf + inf) would be NaN
        largest = tl.where(largest == float("-inf"), 0.0, largest)
        p = tl.exp2(x - largest)
        total = tl.sum(p, axis=1)[:, None]
        inverse = 1.0 / tl.where(total > 0.0, total, 1.0)  # without a valid key all sums are 0

        weights = p.to(v0.dtype)
        factor = inverse
        if stray:
            # rare, and then read again: marks that are kept would cost registers
            factor = spoil(factor, p, find_stray_keys(v_ptr, keys, stride_v_n * ALIGN, 1, Nk, D))
        out = tl.dot(weights, v0, input_precision="ieee") * factor
        store_rows(out_ptr, queries, H * D, Nq, out, 0, FIRST, D)
        if SECOND > 0:
            out = tl.dot(weights, v1, input_precision="ieee") * factor
            store_rows(out_ptr, queries, H * D, Nq, out, FIRST, SECOND, D)
        row = (sample * H + head) * Nq + queries[:, None]
        if readout_ptr is not None:
            factor = inverse
            if stray_w:
                of_key = find_stray_keys(readout_ptr, keys, stride_readout_k, stride_readout_m, Nk, M)
                factor = spoil(factor, p, of_key)
            reads = dot_fp32(p, w, tl.zeros([BLOCK_Q, BLOCK_M], tl.float32), PART) * factor
            columns = tl.arange(0, BLOCK_M)[None, :]
            tl.store(reads_ptr + row * M + columns, reads, mask=(queries[:, None] < Nq) & (columns < M))
        if rows_ptr is not None:
            plane = samples * H * Nq
            mask = queries[:, None] < Nq
            store_sums(rows_ptr, plane, row, mask, largest, total, inverse)
            if beta_ptr is not None:
                store_extreme(rows_ptr, TOP * plane + row, TOP_KEY * plane + row, mask, top, top_key)
            if gamma_ptr is not None:
                store_extreme(rows_ptr, BOTTOM * plane + row, BOTTOM_KEY * plane + row, mask, bottom, bottom_key)


def attention_fwd_short(call: Call, outputs: dict[str, Any]) -> None:
    """Fill ``outputs``, by the names that they have in the kernel."""
    samples, seqlen_q, _, heads, _ = call.sizes
    tile = call.tile("fwd_short")
    tiles = triton.cdiv(seqlen_q, tile.block_q)
    in_turn = launch.choose_tiles_per_program(tiles, samples * heads, tile.most_tiles)
    programs = triton.cdiv(tiles, in_turn) * heads * samples
    options = call.options("fwd_short", tile)
    run(_attention_fwd_short_kernel, programs, **call.arguments, **outputs, **options, TILES=in_turn)
