"""Triton gradient of the queries of ``attention``: a tile of queries, a loop over keys.

It comes first, since it finds per row what the other kernels of backward need.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from weft.kernels.common.device import run

from .fwd import Forward
from .host import VARYING, Call
from .tiles import (
    BOTTOM,
    BOTTOM_KEY,
    BOTTOM_TERM,
    INVERSE,
    LARGEST,
    ROW_TERM,
    TOP,
    TOP_KEY,
    TOP_TERM,
    dot_fp32,
    edit_tile,
    keep_keys,
    load_key,
    load_key_rows,
    load_labels,
    load_plane,
    load_readout,
    load_rows,
    locate,
    logits,
    only_finite,
    only_seen,
    product,
    store_rows,
    weigh_tile,
)

TERM_PLANES = 3


@triton.jit(do_not_specialize=VARYING)
def _attention_bwd_q_kernel(
    # inputs
    dout_ptr,  # [B, Nq, H, D]
    dmaps_ptr,  # [B, Nq, M] fp32
    out_ptr,  # [B, Nq, H, D]
    reads_ptr,  # [B, H, Nq, M] fp32
    rows_ptr,  # [planes, B, H, Nq] 32-bit words
    q_ptr,  # this and the following as in forward
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
    # outputs
    dq_ptr,  # [B, Nq, H, D]
    terms_ptr,  # [3, B, H, Nq] fp32
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
    FULL_K: tl.constexpr,
    LOOKUP: tl.constexpr,
    LABELS: tl.constexpr,
    REFINE: tl.constexpr,
    PART: tl.constexpr,
):
    tile, head, sample, samples = locate(tl.cdiv(Nq, BLOCK_Q), H)
    q_ptr += (sample * stride_q_b + head.to(tl.int64) * stride_q_h) * ALIGN
    k_ptr += (sample * stride_k_b + (head // GROUP).to(tl.int64) * stride_k_h) * ALIGN
    v_ptr += (sample * stride_v_b + (head // GROUP).to(tl.int64) * stride_v_h) * ALIGN
    # dq, out and dout lie alike
    of_head = (sample * Nq * H + head) * D
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
    mask = queries < Nq
    q0 = load_rows(q_ptr, queries, stride_q_n * ALIGN, Nq, 0, FIRST, D, False)
    do0 = load_rows(dout_ptr + of_head, queries, H * D, Nq, 0, FIRST, D, False)
    o0 = load_rows(out_ptr + of_head, queries, H * D, Nq, 0, FIRST, D, False)
    row_term = tl.sum(do0.to(tl.float32) * o0.to(tl.float32), axis=1)[:, None]
    q1, do1 = q0, do0
    if SECOND > 0:
        q1 = load_rows(q_ptr, queries, stride_q_n * ALIGN, Nq, FIRST, SECOND, D, False)
        do1 = load_rows(dout_ptr + of_head, queries, H * D, Nq, FIRST, SECOND, D, False)
        o1 = load_rows(out_ptr + of_head, queries, H * D, Nq, FIRST, SECOND, D, False)
        row_term += tl.sum(do1.to(tl.float32) * o1.to(tl.float32), axis=1)[:, None]
    row = (sample * H + head) * Nq + queries
    if readout_ptr is not None:
        # maps are a mean over heads of what each head reads, so each head sees its share and its own reading
        dm = load_readout(dmaps_ptr + sample * Nq * M, queries, M, 1, Nq, M, BLOCK_M) / H
        read = load_readout(reads_ptr + (sample * H + head) * Nq * M, queries, M, 1, Nq, M, BLOCK_M)
        row_term += tl.sum(dm * read, axis=1)[:, None]

    plane = samples * H * Nq
    largest = load_plane(rows_ptr, LARGEST * plane, row, mask, float("inf"))[:, None]
    inverse = load_plane(rows_ptr, INVERSE * plane, row, mask, 0.0)[:, None]
    top, bottom = 0.0, 0.0
    if beta_ptr is not None:
        top = load_plane(rows_ptr, TOP * plane, row, mask, 0.0)[:, None]
    if gamma_ptr is not None:
        bottom = load_plane(rows_ptr, BOTTOM * plane, row, mask, 0.0)[:, None]
    r = 0
    if query_labels_ptr is not None:
        r = load_labels(query_labels_ptr + sample * stride_query_labels_b, queries, Nq, LQ)[:, None]

    imbalance = tl.zeros([BLOCK_Q], tl.float32)
    top_term = tl.zeros([BLOCK_Q], tl.float32)
    bottom_term = tl.zeros([BLOCK_Q], tl.float32)
    dq0 = tl.zeros([BLOCK_Q, FIRST], tl.float32)
    dq1 = tl.zeros([BLOCK_Q, SECOND if SECOND > 0 else 1], tl.float32)
    for start in range(0, Nk, BLOCK_K):
        keys = start + tl.arange(0, BLOCK_K)
        k0 = load_key_rows(k_ptr, keys, stride_k_n * ALIGN, Nk, key_padding_ptr, 0, FIRST, D, FULL_K)
        v0 = load_rows(v_ptr, keys, stride_v_n * ALIGN, Nk, 0, FIRST, D, FULL_K)
        k1, v1 = k0, v0
        if SECOND > 0:
            k1 = load_key_rows(k_ptr, keys, stride_k_n * ALIGN, Nk, key_padding_ptr, FIRST, SECOND, D, FULL_K)
            v1 = load_rows(v_ptr, keys, stride_v_n * ALIGN, Nk, FIRST, SECOND, D, FULL_K)
        if delta_ptr is not None:
            # a row that sees what is taken out here has an output that is not finite, and so has its gradient
            k0, k1 = only_finite(k0), only_finite(k1)
        c = 0
        if key_labels_ptr is not None:
            c = load_labels(key_labels_ptr, keys, Nk, LK)[None, :]
        s = logits(q0, q1, k0, k1, scale, SECOND, PART)
        dp = product(do0, do1, v0, v1, SECOND)
        if readout_ptr is not None:
            w = load_readout(readout_ptr, keys, stride_readout_k, stride_readout_m, Nk, M, BLOCK_M)
            dp = dot_fp32(dm, tl.trans(w), dp, PART)
        x = edit_tile(s, top, bottom, r, c, alpha_ptr, beta_ptr, gamma_ptr, delta_ptr, LK, LOOKUP, LABELS)
        x = keep_keys(x, keys[None, :], Nk, key_padding_ptr, float("-inf"), FULL_K)
        p = tl.exp2(x - largest) * inverse
        ds = only_seen(p * (dp - row_term), x, delta_ptr, key_padding_ptr)
        if REFINE:
            imbalance += tl.sum(ds, axis=1)
        if beta_ptr is not None:
            top_term += tl.sum(weigh_tile(ds, r, c, beta_ptr, LK, LOOKUP, LABELS), axis=1)
        if gamma_ptr is not None:
            bottom_term += tl.sum(weigh_tile(ds, r, c, gamma_ptr, LK, LOOKUP, LABELS), axis=1)
        ds = weigh_tile(ds, r, c, alpha_ptr, LK, LOOKUP, LABELS).to(k0.dtype)
        dq0 = tl.dot(ds, k0, dq0, input_precision="ieee")
        if SECOND > 0:
            dq1 = tl.dot(ds, k1, dq1, input_precision="ieee")

    # dS' of a row sums to 0, which out in 16 bits misses; where a table's gradient adds whole rows that would add up
    tl.store(terms_ptr + ROW_TERM * plane + row, tl.sum(row_term, axis=1) + imbalance, mask=mask)
    if beta_ptr is not None:
        tl.store(terms_ptr + TOP_TERM * plane + row, top_term, mask=mask)
        keys = load_key(rows_ptr, TOP_KEY * plane, row, mask)
        # a row that sees no key names the first, which may hold anything
        k0 = load_rows(k_ptr, keys, stride_k_n * ALIGN, Nk, 0, FIRST, D, False)
        dq0 += top_term[:, None] * only_finite(k0)
        if SECOND > 0:
            k1 = load_rows(k_ptr, keys, stride_k_n * ALIGN, Nk, FIRST, SECOND, D, False)
            dq1 += top_term[:, None] * only_finite(k1)
    if gamma_ptr is not None:
        tl.store(terms_ptr + BOTTOM_TERM * plane + row, bottom_term, mask=mask)
        keys = load_key(rows_ptr, BOTTOM_KEY * plane, row, mask)
        k0 = load_rows(k_ptr, keys, stride_k_n * ALIGN, Nk, 0, FIRST, D, False)
        dq0 += bottom_term[:, None] * only_finite(k0)
        if SECOND > 0:
            k1 = load_rows(k_ptr, keys, stride_k_n * ALIGN, Nk, FIRST, SECOND, D, False)
            dq1 += bottom_term[:, None] * only_finite(k1)
    store_rows(dq_ptr + of_head, queries, H * D, Nq, dq0 * scale, 0, FIRST, D)
    if SECOND > 0:
        store_rows(dq_ptr + of_head, queries, H * D, Nq, dq1 * scale, FIRST, SECOND, D)


def attention_bwd_q(call: Call, arguments: dict[str, Any], forward: Forward) -> tuple[Tensor, Tensor]:
    """dq [B, Nq, H, D]; and the planes of terms, [3, B, H, Nq] fp32.

    Args:
        call: The inputs.
        arguments: Those, what arrives at the results, and the rows of forward, by the names of the kernel.
        forward: What forward gave.
    """
    samples, seqlen_q, _, heads, _ = call.sizes
    dq = call.given.q.new_empty(call.given.q.shape)
    terms = call.given.q.new_empty((TERM_PLANES, samples, heads, seqlen_q), dtype=torch.float32)
    tile = call.tile("bwd_q")
    run(
        _attention_bwd_q_kernel,
        triton.cdiv(seqlen_q, tile.block_q) * heads * samples,
        **arguments,
        out_ptr=forward.out,
        reads_ptr=forward.reads,
        dq_ptr=dq,
        terms_ptr=terms,
        REFINE=call.has_tables,
        **call.options("bwd_q", tile),
    )
    return dq, terms
