"""Triton forward of ``pairwise_error``: one program a pair, or several where pairs are few; their sums are added in
order. Traffic: every prediction once, every target once a column (from cache).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from weft.kernels.common.device import run
from weft.kernels.common.strides import strides

from .host import as_pairs, as_targets, memory_order
from .launch import BLOCK, NUM_WARPS, choose_parts


@triton.jit
def _pairwise_error_fwd_kernel(
    # inputs
    pred_ptr,  # [R, C, N]
    target_ptr,  # [R, N]
    # outputs
    sums_ptr,  # [parts, R, C] fp32
    # sizes and scalars
    stride_pred_r,
    stride_pred_c,
    stride_pred_n,
    stride_target_r,
    stride_target_n,
    C,
    N,
    parts,
    blocks,  # of a part
    # compile-time
    BLOCK: tl.constexpr,
):
    pairs = tl.num_programs(0) // parts
    pair, part = tl.program_id(0) % pairs, tl.program_id(0) // pairs
    # int64 before the products: they can pass 2**31
    row = (pair // C).to(tl.int64)
    column = (pair % C).to(tl.int64)
    pred_ptr += row * stride_pred_r + column * stride_pred_c
    target_ptr += row * stride_target_r
    first = part.to(tl.int64) * blocks

    total = tl.zeros([BLOCK], tl.float32)
    for block in range(first, first + blocks):
        offs_n = block * BLOCK + tl.arange(0, BLOCK)
        mask = offs_n < N
        pred = tl.load(pred_ptr + offs_n * stride_pred_n, mask=mask, other=0.0).to(tl.float32)
        target = tl.load(target_ptr + offs_n * stride_target_n, mask=mask, other=0.0).to(tl.float32)
        total += (pred - target) * (pred - target)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(total, axis=0))


def pairwise_error_fwd(pred: Tensor, target: Tensor) -> Tensor:
    """Errors [R, C] fp32 of ``pairwise_error_reference``, which says what the arguments are; no 64-bit input."""
    order = memory_order(pred)
    pred, target = as_pairs(pred, order), as_targets(target, order)
    rows, columns, values = pred.shape
    parts, blocks = choose_parts(rows * columns, values)
    sums = pred.new_empty((parts, rows, columns), dtype=torch.float32)
    run(
        _pairwise_error_fwd_kernel,
        rows * columns * parts,
        pred_ptr=pred,
        target_ptr=target,
        sums_ptr=sums,
        **strides("pred", pred, "rcn"),
        **strides("target", target, "rn"),
        C=columns,
        N=values,
        parts=parts,
        blocks=blocks,
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
    )
    return (sums[0] if parts == 1 else sums.sum(0)) / values
