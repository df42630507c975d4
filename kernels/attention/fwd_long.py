"""Triton forward of ``attention`` over any number of keys: online softmax, one program a head and a tile of queries.

Only a row statistic that a table asks for costs a sweep of its own (TRITON.md says why not one pass).
Traffic: reads q once, k and v once a program (from L2), k twice for a statistic; writes out and, per head, M fp32
values a query.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from weft.kernels.common.device import run

from .host import VARYING, Call
from .tiles import (
    BOTTOM,
    BOTTOM_KEY,
    TOP,
    TOP_KEY,
    dot_fp32,
    edit_tile,
    first_key,
    has_strays,
    keep_keys,
    load_key_rows,
    load_labels,
    load_parts,
    load_readout,
    load_rows_where,
    locate,
    logits,
    only_finite,
    sort_keys,
    spoil,
    store_extreme,
    store_rows,
    store_sums,
    stray_rows,
    without_padding,
)


@triton.jit
def _attend_keys(
    q0,
    q1,
    r,
    top,
    bottom,
    k_ptr,
    v_ptr,
    alpha_ptr,
    beta_ptr,
    gamma_ptr,
    delta_ptr,
    readout_ptr,
    key_labels_ptr,
    key_padding_ptr,
    stride_k_n,
    stride_v_n,
    stride_readout_k,
    stride_readout_m,
    Nk,
    M,
    LK,
    scale,
    ALIGN: tl.constexpr,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    FULL_K: tl.constexpr,
    LOOKUP: tl.constexpr,
    LABELS: tl.constexpr,
    PART: tl.constexpr,
    STAGES: tl.constexpr,
    SEEN_ONLY: tl.constexpr,
):
    """Online softmax of one tile of queries over all keys: its largest, its sum, and P V and P W times that sum.

    With ``SEEN_ONLY`` a P of 0 keeps a key out of the products whatever its value and its row of W are.
    """
    largest = tl.full([BLOCK_Q, 1], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q, 1], tl.float32)
    out0 = tl.zeros([BLOCK_Q, FIRST], tl.float32)
    out1 = tl.zeros([BLOCK_Q, SECOND if SECOND > 0 else 1], tl.float32)
    reads = tl.zeros([BLOCK_Q, BLOCK_M], tl.float32)
    # 0, or NaN for a row that sees a value, or a row of W, that is not finite
    spoilt = tl.zeros([BLOCK_Q, 1], tl.float32)
    spoilt_w = tl.zeros([BLOCK_Q, 1], tl.float32)
    # what is done rarely need not be pipelined, which would cost registers
    for start in tl.range(0, Nk, BLOCK_K, num_stages=1 if SEEN_ONLY else STAGES):
        keys = start + tl.arange(0, BLOCK_K)
        k0, k1 = load_parts(k_ptr, keys, stride_k_n * ALIGN, Nk, FIRST, SECOND, D, FULL_K)
        c = 0
        if key_labels_ptr is not None:
            c = load_labels(key_labels_ptr, keys, Nk, LK)[None, :]
        s = logits(q0, q1, k0, k1, scale, SECOND, PART)
        x = edit_tile(s, top, bottom, r, c, alpha_ptr, beta_ptr, gamma_ptr, delta_ptr, LK, LOOKUP, LABELS)
        x = keep_keys(x, keys[None, :], Nk, key_padding_ptr, float("-inf"), FULL_K)

        new_largest = tl.maximum(largest, tl.max(x, axis=1)[:, None])
        # nothing valid so far: subtract 0, since -inf + inf is NaN
        shift = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        p = tl.exp2(x - shift)
        fade = tl.exp2(largest - shift)
        total = total * fade + tl.sum(p, axis=1)[:, None]
        largest = new_largest

        weights = p.to(q0.dtype)
        if SEEN_ONLY:
            present, strays = sort_keys(v_ptr, keys, stride_v_n * ALIGN, Nk, key_padding_ptr, D)
            spoilt = spoil(spoilt, p, strays)
            v0 = load_rows_where(v_ptr, keys, stride_v_n * ALIGN, present, 0, FIRST, D)
        else:
            v0 = load_key_rows(v_ptr, keys, stride_v_n * ALIGN, Nk, key_padding_ptr, 0, FIRST, D, FULL_K)
        out0 = tl.dot(weights, v0, out0 * fade, input_precision="ieee")
        if SECOND > 0:
            if SEEN_ONLY:
                v1 = load_rows_where(v_ptr, keys, stride_v_n * ALIGN, present, FIRST, SECOND, D)
            else:
                v1 = load_key_rows(v_ptr, keys, stride_v_n * ALIGN, Nk, key_padding_ptr, FIRST, SECOND, D, FULL_K)
            out1 = tl.dot(weights, v1, out1 * fade, input_precision="ieee")
        if readout_ptr is not None:
            w = load_readout(readout_ptr, keys, stride_readout_k, stride_readout_m, Nk, M, BLOCK_M)
            w = without_padding(w, keys, Nk, key_padding_ptr)
            if SEEN_ONLY:
                spoilt_w = spoil(spoilt_w, p, stray_rows(w))
                w = only_finite(w)
            reads = dot_fp32(p, w, reads * fade, PART)
    if SEEN_ONLY:
        out0, out1, reads = out0 + spoilt, out1 + spoilt, reads + spoilt_w
    return largest, total, out0, out1, reads


@triton.jit(do_not_specialize=VARYING)
def _attention_fwd_long_kernel(
    # inputs, outputs, strides, sizes: as in the kernel above, and
    q_ptr,
    k_ptr,
    v_ptr,
    alpha_ptr,
    beta_ptr,
    gamma_ptr,
    delta_ptr,
    readout_ptr,
    query_labels_ptr,
    key_labels_ptr,
    key_padding_ptr,
    out_ptr,
    reads_ptr,
    rows_ptr,
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
    H,
    GROUP,
    Nq,
    Nk,
    M,
    LQ,
    LK,
    scale,
    ALIGN: tl.constexpr,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    FULL_K: tl.constexpr,
    LOOKUP: tl.constexpr,
    LABELS: tl.constexpr,
    PART: tl.constexpr,
    STAGES: tl.constexpr,
):
    tile, head, sample, samples = locate(tl.cdiv(Nq, BLOCK_Q), H)
    q_ptr += (sample * stride_q_b + head.to(tl.int64) * stride_q_h) * ALIGN
    k_ptr += (sample * stride_k_b + (head // GROUP).to(tl.int64) * stride_k_h) * ALIGN
    v_ptr += (sample * stride_v_b + (head // GROUP).to(tl.int64) * stride_v_h) * ALIGN
    out_ptr += (sample * Nq * H + head) * D
    if readout_ptr is not None:
        readout_ptr += sample * stride_readout_b
    if key_labels_ptr is not None:
        key_labels_ptr += sample * stride_key_labels_b
    if key_padding_ptr is not None:
        key_padding_ptr += sample * stride_key_padding_b
    if alpha_ptr is not None:
        alpha_ptr += sample * stride_alpha_b
    if beta_ptr is not None:
        beta_ptr += sample * stride_beta_b
    if gamma_ptr is not None:
        gamma_ptr += sample * stride_gamma_b
    if delta_ptr is not None:
        delta_ptr += sample * stride_delta_b

    queries = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    q0, q1 = load_parts(q_ptr, queries, stride_q_n * ALIGN, Nq, FIRST, SECOND, D, False)
    r = 0
    if query_labels_ptr is not None:
        r = load_labels(query_labels_ptr + sample * stride_query_labels_b, queries, Nq, LQ)[:, None]

    # --- the range of each row, where a table asks for it
    top = tl.full([BLOCK_Q, 1], float("-inf"), tl.float32)
    bottom = tl.full([BLOCK_Q, 1], float("inf"), tl.float32)
    top_key = tl.zeros([BLOCK_Q, 1], tl.int32)
    bottom_key = tl.zeros([BLOCK_Q, 1], tl.int32)
    if (beta_ptr is not None) or (gamma_ptr is not None):
        for start in range(0, Nk, BLOCK_K):
            keys = start + tl.arange(0, BLOCK_K)
            k0, k1 = load_parts(k_ptr, keys, stride_k_n * ALIGN, Nk, FIRST, SECOND, D, FULL_K)
            s = logits(q0, q1, k0, k1, scale, SECOND, PART)
            removed = keep_keys(s, keys[None, :], Nk, key_padding_ptr, float("-inf"), FULL_K) == float("-inf")
            if delta_ptr is not None:
                c = 0
                if key_labels_ptr is not None:
                    c = load_labels(key_labels_ptr, keys, Nk, LK)[None, :]
                only_delta = edit_tile(s, 0.0, 0.0, r, c, None, None, None, delta_ptr, LK, LOOKUP, LABELS)
                removed = removed | (only_delta == float("-inf"))
            if beta_ptr is not None:
                kept = tl.where(removed, float("-inf"), s)
                of_tile = tl.max(kept, axis=1)[:, None]
                if rows_ptr is not None:
                    top_key = tl.where(of_tile > top, first_key(kept, of_tile, keys[None, :]), top_key)
                top = tl.maximum(top, of_tile)
            if gamma_ptr is not None:
                kept = tl.where(removed, float("inf"), s)
                of_tile = tl.min(kept, axis=1)[:, None]
                if rows_ptr is not None:
                    bottom_key = tl.where(of_tile < bottom, first_key(kept, of_tile, keys[None, :]), bottom_key)
                bottom = tl.minimum(bottom, of_tile)
        # a row without a valid key: an infinity would meet a table entry of 0
        top = tl.where(top == float("-inf"), 0.0, top)
        bottom = tl.where(bottom == float("inf"), 0.0, bottom)

    # The plain product gives rows a 0 * NaN of a value, or a row of W, that they need not see: rarely, so then all
    # goes over again. fp32 leaves time for the careful way at once, but no registers for two loops
    FROM: tl.constexpr = 1 if (delta_ptr is not None) and (q0.dtype == tl.float32) else 0
    TO: tl.constexpr = 2 if delta_ptr is not None else 1
    largest = tl.full([BLOCK_Q, 1], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q, 1], tl.float32)
    out0 = tl.zeros([BLOCK_Q, FIRST], tl.float32)
    out1 = tl.zeros([BLOCK_Q, SECOND if SECOND > 0 else 1], tl.float32)
    reads = tl.zeros([BLOCK_Q, BLOCK_M], tl.float32)
    unfinished = 1
    for SEEN_ONLY in tl.static_range(FROM, TO):
        if unfinished:
            largest, total, out0, out1, reads = _attend_keys(
                q0,
                q1,
                r,
                top,
                bottom,
                k_ptr,
                v_ptr,
                alpha_ptr,
                beta_ptr,
                gamma_ptr,
                delta_ptr,
                readout_ptr,
                key_labels_ptr,
                key_padding_ptr,
                stride_k_n,
                stride_v_n,
                stride_readout_k,
                stride_readout_m,
                Nk,
                M,
                LK,
                scale,
                ALIGN,
                D,
                FIRST,
                SECOND,
                BLOCK_Q,
                BLOCK_K,
                BLOCK_M,
                FULL_K,
                LOOKUP,
                LABELS,
                PART,
                STAGES,
                SEEN_ONLY,
            )
            if SEEN_ONLY + 1 < TO:
                # rows whose P is not finite are what they are
                unfinished = has_strays(tl.where(total < float("inf"), out0, 0.0))
                if SECOND > 0:
                    unfinished = tl.maximum(unfinished, has_strays(tl.where(total < float("inf"), out1, 0.0)))
                if readout_ptr is not None:
                    unfinished = tl.maximum(unfinished, has_strays(tl.where(total < float("inf"), reads, 0.0)))

    inverse = 1.0 / tl.where(total > 0.0, total, 1.0)  # without a valid key all sums are 0
    store_rows(out_ptr, queries, H * D, Nq, out0 * inverse, 0, FIRST, D)
    if SECOND > 0:
        store_rows(out_ptr, queries, H * D, Nq, out1 * inverse, FIRST, SECOND, D)
    row = (sample * H + head) * Nq + queries[:, None]
    mask = queries[:, None] < Nq
    if readout_ptr is not None:
        columns = tl.arange(0, BLOCK_M)[None, :]
        tl.store(reads_ptr + row * M + columns, reads * inverse, mask=mask & (columns < M))
    if rows_ptr is not None:
        plane = samples * H * Nq
        store_sums(rows_ptr, plane, row, mask, largest, total, inverse)
        if beta_ptr is not None:
            store_extreme(rows_ptr, TOP * plane + row, TOP_KEY * plane + row, mask, top, top_key)
        if gamma_ptr is not None:
            store_extreme(rows_ptr, BOTTOM * plane + row, BOTTOM_KEY * plane + row, mask, bottom, bottom_key)


def attention_fwd_long(call: Call, outputs: dict[str, Any]) -> None:
    """Fill ``outputs``, by the names that they have in the kernel."""
    samples, seqlen_q, _, heads, _ = call.sizes
    tile = call.tile("fwd_long")
    programs = triton.cdiv(seqlen_q, tile.block_q) * heads * samples
    options = call.options("fwd_long", tile)
    # a loop without a depth of its own takes the kernel's, but Triton 3.2 takes no None for it
    stages = options["num_stages"]
    run(_attention_fwd_long_kernel, programs, **call.arguments, **outputs, **options, STAGES=stages)
