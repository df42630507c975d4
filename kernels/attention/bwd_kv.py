"""Triton gradients of keys, values and read-out of ``attention``: a tile of keys, a loop over queries."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from weft.kernels.common.device import run
from weft.kernels.common.grids import choose_splits

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
    is_absent,
    keep_keys,
    load_key,
    load_labels,
    load_plane,
    load_readout,
    load_rows,
    locate,
    logits,
    only_seen,
    product,
    store_rows,
    weigh_tile,
)


@triton.jit(do_not_specialize=VARYING)
def _attention_bwd_kv_kernel(
    # inputs
    dout_ptr,
    dmaps_ptr,
    rows_ptr,
    terms_ptr,  # [3, B, H, Nq] fp32
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
    dk_ptr,  # [splits, B, Nk, H, D]: of each head of q, also where they share a key
    dv_ptr,  # [splits, B, Nk, H, D]
    dreadout_ptr,  # [splits, B, H, Nk, M] fp32, or None
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
    FULL_K: tl.constexpr,
    LOOKUP: tl.constexpr,
    LABELS: tl.constexpr,
    PART: tl.constexpr,
):
    tiles = tl.cdiv(Nk, BLOCK_K)
    program, head, sample, samples = locate(tiles * splits, H)
    split = program // tiles
    q_ptr += (sample * stride_q_b + head.to(tl.int64) * stride_q_h) * ALIGN
    k_ptr += (sample * stride_k_b + (head // GROUP).to(tl.int64) * stride_k_h) * ALIGN
    v_ptr += (sample * stride_v_b + (head // GROUP).to(tl.int64) * stride_v_h) * ALIGN
    dout_ptr += (sample * Nq * H + head) * D
    of_head = ((split * samples + sample) * Nk * H + head) * D
    if query_labels_ptr is not None:
        query_labels_ptr += sample * stride_query_labels_b
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

    keys = (program % tiles) * BLOCK_K + tl.arange(0, BLOCK_K)
    k0 = load_rows(k_ptr, keys, stride_k_n * ALIGN, Nk, 0, FIRST, D, FULL_K)
    v0 = load_rows(v_ptr, keys, stride_v_n * ALIGN, Nk, 0, FIRST, D, FULL_K)
    k1, v1 = k0, v0
    if SECOND > 0:
        k1 = load_rows(k_ptr, keys, stride_k_n * ALIGN, Nk, FIRST, SECOND, D, FULL_K)
        v1 = load_rows(v_ptr, keys, stride_v_n * ALIGN, Nk, FIRST, SECOND, D, FULL_K)
    c = 0
    if key_labels_ptr is not None:
        c = load_labels(key_labels_ptr + sample * stride_key_labels_b, keys, Nk, LK)[:, None]
    if readout_ptr is not None:
        readout_ptr += sample * stride_readout_b
        dmaps_ptr += sample * Nq * M
        w = load_readout(readout_ptr, keys, stride_readout_k, stride_readout_m, Nk, M, BLOCK_M)

    plane = samples * H * Nq
    of_rows = (sample * H + head) * Nq
    dk0 = tl.zeros([BLOCK_K, FIRST], tl.float32)
    dv0 = tl.zeros([BLOCK_K, FIRST], tl.float32)
    dk1 = tl.zeros([BLOCK_K, SECOND if SECOND > 0 else 1], tl.float32)
    dv1 = tl.zeros([BLOCK_K, SECOND if SECOND > 0 else 1], tl.float32)
    dw = tl.zeros([BLOCK_K, BLOCK_M], tl.float32)
    # tiles lie with keys as rows: what is summed here is summed over queries
    for start in range(split * split_length, tl.minimum((split + 1) * split_length, Nq), BLOCK_Q):
        queries = start + tl.arange(0, BLOCK_Q)
        mask = queries < Nq
        row = of_rows + queries
        q0 = load_rows(q_ptr, queries, stride_q_n * ALIGN, Nq, 0, FIRST, D, False)
        do0 = load_rows(dout_ptr, queries, H * D, Nq, 0, FIRST, D, False)
        q1, do1 = q0, do0
        if SECOND > 0:
            q1 = load_rows(q_ptr, queries, stride_q_n * ALIGN, Nq, FIRST, SECOND, D, False)
            do1 = load_rows(dout_ptr, queries, H * D, Nq, FIRST, SECOND, D, False)
        largest = load_plane(rows_ptr, LARGEST * plane, row, mask, float("inf"))[None, :]
        inverse = load_plane(rows_ptr, INVERSE * plane, row, mask, 0.0)[None, :]
        row_term = load_plane(terms_ptr, ROW_TERM * plane, row, mask, 0.0)[None, :]
        top, bottom = 0.0, 0.0
        if beta_ptr is not None:
            top = load_plane(rows_ptr, TOP * plane, row, mask, 0.0)[None, :]
        if gamma_ptr is not None:
            bottom = load_plane(rows_ptr, BOTTOM * plane, row, mask, 0.0)[None, :]
        r = 0
        if query_labels_ptr is not None:
            r = load_labels(query_labels_ptr, queries, Nq, LQ)[None, :]

        s = logits(k0, k1, q0, q1, scale, SECOND, PART)
        dp = product(v0, v1, do0, do1, SECOND)
        if readout_ptr is not None:
            dm = load_readout(dmaps_ptr, queries, M, 1, Nq, M, BLOCK_M) / H
            dp = dot_fp32(w, tl.trans(dm), dp, PART)
        x = edit_tile(s, top, bottom, r, c, alpha_ptr, beta_ptr, gamma_ptr, delta_ptr, LK, LOOKUP, LABELS)
        x = keep_keys(x, keys[:, None], Nk, key_padding_ptr, float("-inf"), FULL_K)
        # P of a row that is not finite is NaN everywhere, and would reach keys that the row does not see
        p = only_seen(tl.exp2(x - largest) * inverse, x, delta_ptr, key_padding_ptr)
        ds = only_seen(p * (dp - row_term), x, delta_ptr, key_padding_ptr)
        ds = weigh_tile(ds, r, c, alpha_ptr, LK, LOOKUP, LABELS)
        if beta_ptr is not None:
            term = load_plane(terms_ptr, TOP_TERM * plane, row, mask, 0.0)[None, :]
            ds += tl.where(load_key(rows_ptr, TOP_KEY * plane, row, mask)[None, :] == keys[:, None], term, 0.0)
        if gamma_ptr is not None:
            term = load_plane(terms_ptr, BOTTOM_TERM * plane, row, mask, 0.0)[None, :]
            ds += tl.where(load_key(rows_ptr, BOTTOM_KEY * plane, row, mask)[None, :] == keys[:, None], term, 0.0)
        if dreadout_ptr is not None:
            dw = dot_fp32(p, dm, dw, PART)
        p = p.to(do0.dtype)
        ds = ds.to(q0.dtype)
        dv0 = tl.dot(p, do0, dv0, input_precision="ieee")
        dk0 = tl.dot(ds, q0, dk0, input_precision="ieee")
        if SECOND > 0:
            dv1 = tl.dot(p, do1, dv1, input_precision="ieee")
            dk1 = tl.dot(ds, q1, dk1, input_precision="ieee")

    if key_padding_ptr is not None:
        # also where what arrives is not finite
        padded = is_absent(keys, Nk, key_padding_ptr)[:, None]
        dk0, dk1 = tl.where(padded, 0.0, dk0), tl.where(padded, 0.0, dk1)
        dv0, dv1 = tl.where(padded, 0.0, dv0), tl.where(padded, 0.0, dv1)
        dw = tl.where(padded, 0.0, dw)
    store_rows(dk_ptr + of_head, keys, H * D, Nk, dk0 * scale, 0, FIRST, D)
    store_rows(dv_ptr + of_head, keys, H * D, Nk, dv0, 0, FIRST, D)
    if SECOND > 0:
        store_rows(dk_ptr + of_head, keys, H * D, Nk, dk1 * scale, FIRST, SECOND, D)
        store_rows(dv_ptr + of_head, keys, H * D, Nk, dv1, FIRST, SECOND, D)
    if dreadout_ptr is not None:
        columns = tl.arange(0, BLOCK_M)[None, :]
        row = ((split * samples + sample) * H + head) * Nk + keys[:, None]
        tl.store(dreadout_ptr + row * M + columns, dw, mask=(keys[:, None] < Nk) & (columns < M))


def attention_bwd_kv(call: Call, arguments: dict[str, Any], wants_readout: bool) -> tuple[Tensor, Tensor, Tensor]:
    """dk, dv [B, Nk, Hk, D], and the gradient of the read-out for each sample, [B, Nk, M].

    Args:
        call: The inputs.
        arguments: What the kernel of dq was given, and the terms that it left.
        wants_readout: Whether to compute the last; [B, Nk, 0] without.
    """
    samples, seqlen_q, seqlen_k, heads, _ = call.sizes
    k = call.given.k
    tile = call.tile("bwd_kv")
    tiles = triton.cdiv(seqlen_k, tile.block_k)
    tiles_q = triton.cdiv(seqlen_q, tile.block_q)
    splits = choose_splits(tiles * heads * samples, tiles_q)
    # parts, of queries or of heads that share a key, are added in fp32; a sum in one part is rounded where it is made
    in_parts = splits > 1 or call.given.group > 1
    shape = (splits, samples, seqlen_k, heads, k.shape[3])
    dk, dv = (k.new_empty(shape, dtype=torch.float32 if in_parts else k.dtype) for _ in range(2))
    dw = k.new_empty(
        (splits, samples, heads, seqlen_k, call.given.columns if wants_readout else 0), dtype=torch.float32
    )
    run(
        _attention_bwd_kv_kernel,
        tiles * splits * heads * samples,
        **arguments,
        dk_ptr=dk,
        dv_ptr=dv,
        dreadout_ptr=dw if wants_readout else None,
        splits=splits,
        split_length=triton.cdiv(tiles_q, splits) * tile.block_q,
        **call.options("bwd_kv", tile),
    )
    dw = dw[0].sum(1) if splits == 1 else dw.sum((0, 2))
    return _add_parts(dk, k), _add_parts(dv, k), dw


def _add_parts(parts: Tensor, like: Tensor) -> Tensor:
    """[splits, B, Nk, H, D] as the gradient of [B, Nk, Hk, D] ``like``."""
    found = parts[0] if len(parts) == 1 else parts.sum(0)
    if found.shape[2] > like.shape[2]:
        found = found.unflatten(2, (like.shape[2], -1)).sum(3)
    return found.to(like.dtype)
