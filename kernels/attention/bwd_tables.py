"""Triton gradient of the four tables: for each pair of labels, a sum over all queries and keys that bear them.

    dalpha[r, c] = sum dS' S    dbeta = sum dS' rowmax    dgamma = sum dS' rowmin    ddelta = sum dS'

A program owns BLOCK_L x BLOCK_L pairs and some of the queries of one head. It collects the keys of a label by a
product with their one-hot matrix, then the queries likewise. Larger tables cost as many sweeps as they have blocks.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from weft.kernels.common.device import run
from weft.kernels.common.grids import MIN_BLOCK, choose_splits

from .host import VARYING, Call
from .tiles import (
    BOTTOM,
    INVERSE,
    LARGEST,
    LN2,
    ROW_TERM,
    TOP,
    dot_fp32,
    edit_tile,
    keep_keys,
    load_labels,
    load_plane,
    load_readout,
    load_rows,
    locate,
    logits,
    only_seen,
    product,
)

# label pairs of one program, each way
BLOCK_L = MIN_BLOCK


@triton.jit
def _match(a, b):
    """1 where two labels are the same, else 0; a cast of the comparison ends the compiler of Triton 3.2."""
    return tl.where(a == b, 1.0, 0.0)


@triton.jit
def _collect(found, x, row_labels, labels, PART: tl.constexpr):
    """Add [BLOCK_Q, BLOCK_L] ``x`` to ``found``, each row at the place of its label."""
    one_hot = _match(row_labels, labels[:, None])  # [BLOCK_L, BLOCK_Q]
    return dot_fp32(one_hot, x, found, PART)


@triton.jit
def _store_pairs(base, kind, found, r, c, LQ, LK):
    at = base + (kind * LQ + r.to(tl.int64)[:, None]) * LK + c[None, :]
    tl.store(at, found, mask=(r[:, None] < LQ) & (c[None, :] < LK))


@triton.jit(do_not_specialize=VARYING)
def _attention_bwd_tables_kernel(
    # inputs
    dout_ptr,
    dmaps_ptr,
    rows_ptr,
    terms_ptr,
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
    # outputs
    dtables_ptr,  # [B, splits, H, 4, LQ, LK] fp32, only the planes of tables that are there
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
    splits,
    split_length,  # queries of one split, a multiple of BLOCK_Q
    # compile-time
    ALIGN: tl.constexpr,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_L: tl.constexpr,
    FULL_K: tl.constexpr,
    LOOKUP: tl.constexpr,
    LABELS: tl.constexpr,
    PART: tl.constexpr,
):
    pairs_k = tl.cdiv(LK, BLOCK_L)
    program, head, sample, samples = locate(tl.cdiv(LQ, BLOCK_L) * pairs_k * splits, H)
    split = program % splits
    pairs = program // splits
    labels_q = (pairs // pairs_k) * BLOCK_L + tl.arange(0, BLOCK_L)
    labels_k = (pairs % pairs_k) * BLOCK_L + tl.arange(0, BLOCK_L)
    q_ptr += (sample * stride_q_b + head.to(tl.int64) * stride_q_h) * ALIGN
    k_ptr += (sample * stride_k_b + (head // GROUP).to(tl.int64) * stride_k_h) * ALIGN
    v_ptr += (sample * stride_v_b + (head // GROUP).to(tl.int64) * stride_v_h) * ALIGN
    dout_ptr += (sample * Nq * H + head) * D
    dtables_ptr += ((sample * splits + split) * H + head) * 4 * LQ * LK
    if readout_ptr is not None:
        readout_ptr += sample * stride_readout_b
        dmaps_ptr += sample * Nq * M
    if query_labels_ptr is not None:
        query_labels_ptr += sample * stride_query_labels_b
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

    plane = samples * H * Nq
    of_rows = (sample * H + head) * Nq
    dalpha = tl.zeros([BLOCK_L, BLOCK_L], tl.float32)
    dbeta = tl.zeros([BLOCK_L, BLOCK_L], tl.float32)
    dgamma = tl.zeros([BLOCK_L, BLOCK_L], tl.float32)
    ddelta = tl.zeros([BLOCK_L, BLOCK_L], tl.float32)
    for start_q in range(split * split_length, tl.minimum((split + 1) * split_length, Nq), BLOCK_Q):
        queries = start_q + tl.arange(0, BLOCK_Q)
        mask = queries < Nq
        row = of_rows + queries
        q0 = load_rows(q_ptr, queries, stride_q_n * ALIGN, Nq, 0, FIRST, D, False)
        do0 = load_rows(dout_ptr, queries, H * D, Nq, 0, FIRST, D, False)
        q1, do1 = q0, do0
        if SECOND > 0:
            q1 = load_rows(q_ptr, queries, stride_q_n * ALIGN, Nq, FIRST, SECOND, D, False)
            do1 = load_rows(dout_ptr, queries, H * D, Nq, FIRST, SECOND, D, False)
        if readout_ptr is not None:
            dm = load_readout(dmaps_ptr, queries, M, 1, Nq, M, BLOCK_M) / H
        largest = load_plane(rows_ptr, LARGEST * plane, row, mask, float("inf"))[:, None]
        inverse = load_plane(rows_ptr, INVERSE * plane, row, mask, 0.0)[:, None]
        row_term = load_plane(terms_ptr, ROW_TERM * plane, row, mask, 0.0)[:, None]
        top, bottom = 0.0, 0.0
        if beta_ptr is not None:
            top = load_plane(rows_ptr, TOP * plane, row, mask, 0.0)[:, None]
        if gamma_ptr is not None:
            bottom = load_plane(rows_ptr, BOTTOM * plane, row, mask, 0.0)[:, None]
        r = 0
        row_labels = tl.zeros([1, BLOCK_Q], tl.int32)
        if query_labels_ptr is not None:
            loaded = load_labels(query_labels_ptr, queries, Nq, LQ)
            r = loaded[:, None]
            row_labels = loaded[None, :]

        # per query and key label: sum of dS' S and of dS'
        with_logit = tl.zeros([BLOCK_Q, BLOCK_L], tl.float32)
        plain = tl.zeros([BLOCK_Q, BLOCK_L], tl.float32)
        for start in range(0, Nk, BLOCK_K):
            keys = start + tl.arange(0, BLOCK_K)
            k0 = load_rows(k_ptr, keys, stride_k_n * ALIGN, Nk, 0, FIRST, D, FULL_K)
            v0 = load_rows(v_ptr, keys, stride_v_n * ALIGN, Nk, 0, FIRST, D, FULL_K)
            k1, v1 = k0, v0
            if SECOND > 0:
                k1 = load_rows(k_ptr, keys, stride_k_n * ALIGN, Nk, FIRST, SECOND, D, FULL_K)
                v1 = load_rows(v_ptr, keys, stride_v_n * ALIGN, Nk, FIRST, SECOND, D, FULL_K)
            c = 0
            column_labels = tl.zeros([BLOCK_K, 1], tl.int32)
            if key_labels_ptr is not None:
                loaded_k = load_labels(key_labels_ptr, keys, Nk, LK)
                c = loaded_k[None, :]
                column_labels = loaded_k[:, None]
            s = logits(q0, q1, k0, k1, scale, SECOND, PART)
            dp = product(do0, do1, v0, v1, SECOND)
            if readout_ptr is not None:
                w = load_readout(readout_ptr, keys, stride_readout_k, stride_readout_m, Nk, M, BLOCK_M)
                dp = dot_fp32(dm, tl.trans(w), dp, PART)
            x = edit_tile(s, top, bottom, r, c, alpha_ptr, beta_ptr, gamma_ptr, delta_ptr, LK, LOOKUP, LABELS)
            x = keep_keys(x, keys[None, :], Nk, key_padding_ptr, float("-inf"), FULL_K)
            p = tl.exp2(x - largest) * inverse
            ds = only_seen(p * (dp - row_term), x, delta_ptr, key_padding_ptr)
            one_hot = _match(column_labels, labels_k[None, :])  # [BLOCK_K, BLOCK_L]
            plain = dot_fp32(ds, one_hot, plain, PART)
            if alpha_ptr is not None:
                with_logit = dot_fp32(only_seen(ds * s, x, delta_ptr, key_padding_ptr), one_hot, with_logit, PART)

        if alpha_ptr is not None:
            dalpha = _collect(dalpha, with_logit, row_labels, labels_q, PART)
        if beta_ptr is not None:
            dbeta = _collect(dbeta, plain * top, row_labels, labels_q, PART)
        if gamma_ptr is not None:
            dgamma = _collect(dgamma, plain * bottom, row_labels, labels_q, PART)
        if delta_ptr is not None:
            ddelta = _collect(ddelta, plain, row_labels, labels_q, PART)

    # logits and their extremes are in base 2 here
    if alpha_ptr is not None:
        _store_pairs(dtables_ptr, 0, dalpha * LN2, labels_q, labels_k, LQ, LK)
    if beta_ptr is not None:
        _store_pairs(dtables_ptr, 1, dbeta * LN2, labels_q, labels_k, LQ, LK)
    if gamma_ptr is not None:
        _store_pairs(dtables_ptr, 2, dgamma * LN2, labels_q, labels_k, LQ, LK)
    if delta_ptr is not None:
        _store_pairs(dtables_ptr, 3, ddelta, labels_q, labels_k, LQ, LK)


def attention_bwd_tables(call: Call, arguments: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradient of each table, in its shape; empty for a table that is not there.

    Args:
        call: The inputs.
        arguments: What the kernel of dk and dv was given.
    """
    samples, seqlen_q, _, heads, _ = call.sizes
    labels_q, labels_k = call.given.labels
    tile = call.tile("bwd_tables")
    blocks = triton.cdiv(labels_q, BLOCK_L) * triton.cdiv(labels_k, BLOCK_L)
    tiles = triton.cdiv(seqlen_q, tile.block_q)
    splits = choose_splits(blocks * heads * samples, tiles)
    parts = call.given.q.new_empty((samples, splits, heads, 4, labels_q, labels_k), dtype=torch.float32)
    run(
        _attention_bwd_tables_kernel,
        blocks * splits * heads * samples,
        **arguments,
        dtables_ptr=parts,
        splits=splits,
        split_length=triton.cdiv(tiles, splits) * tile.block_q,
        BLOCK_L=BLOCK_L,
        **call.options("bwd_tables", tile),
    )
    sums = parts.sum((1, 2))  # [B, 4, Lq, Lk]

    def of(kind: int, table: Tensor | None) -> Tensor:
        if table is None:
            return call.given.q.new_empty(0)
        return sums[:, kind].sum(0, keepdim=True) if table.shape[0] < samples else sums[:, kind].clone()

    alpha, beta, gamma, delta = (of(kind, table) for kind, table in enumerate(call.given.tables))
    return alpha, beta, gamma, delta
