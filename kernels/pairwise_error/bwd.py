"""Triton backward of ``pairwise_error``: a program takes some values of a row and goes along its columns.

The target is read once a program, and its gradient, a sum over columns, stays in registers until it is whole.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from weft.kernels.common.device import run
from weft.kernels.common.grids import ceil_div
from weft.kernels.common.strides import strides

from .host import as_pairs, as_targets, memory_order
from .launch import BLOCK, NUM_WARPS, choose_columns


@triton.jit
def _pairwise_error_bwd_kernel(
    # inputs
    derror_ptr,  # [R, C] fp32
    pred_ptr,  # [R, C, N]
    target_ptr,  # [R, N]
    # outputs
    dpred_ptr,  # [R, C, N] or None
    dtarget_ptr,  # [R, N] or None
    # sizes and scalars
    stride_derror_r,
    stride_derror_c,
    stride_pred_r,
    stride_pred_c,
    stride_pred_n,
    stride_target_r,
    stride_target_n,
    stride_dpred_r,
    stride_dpred_c,
    stride_dpred_n,
    stride_dtarget_r,
    stride_dtarget_n,
    C,
    N,
    columns,  # of a program
    # compile-time
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(N, BLOCK)
    rows = tl.num_programs(0) // (blocks * tl.cdiv(C, columns))
    row = (tl.program_id(0) % rows).to(tl.int64)
    of_row = tl.program_id(0) // rows
    offs_n = (of_row % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs_n < N
    target = tl.load(target_ptr + row * stride_target_r + offs_n * stride_target_n, mask=mask, other=0.0)
    target = target.to(tl.float32)
    first = (of_row // blocks) * columns

    dtarget = tl.zeros([BLOCK], tl.float32)
    for c in range(first, tl.minimum(first + columns, C)):
        column = tl.full([], c, tl.int64)
        at = row * stride_pred_r + column * stride_pred_c
        pred = tl.load(pred_ptr + at + offs_n * stride_pred_n, mask=mask, other=0.0).to(tl.float32)
        factor = 2.0 * tl.load(derror_ptr + row * stride_derror_r + column * stride_derror_c) / N
        dpred = (pred - target) * factor
        dtarget -= dpred
        if dpred_ptr is not None:
            at = row * stride_dpred_r + column * stride_dpred_c
            tl.store(dpred_ptr + at + offs_n * stride_dpred_n, dpred.to(dpred_ptr.dtype.element_ty), mask=mask)
    if dtarget_ptr is not None:
        at = row * stride_dtarget_r + offs_n * stride_dtarget_n
        tl.store(dtarget_ptr + at, dtarget.to(dtarget_ptr.dtype.element_ty), mask=mask)


def pairwise_error_bwd(
    derror: Tensor, pred: Tensor, target: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """The gradients of ``pairwise_error_backward_reference``, which says what the arguments are; no 64-bit input."""
    dpred = torch.empty_like(pred) if wanted[0] else pred.new_empty(0)
    dtarget = torch.empty_like(target) if wanted[1] else target.new_empty(0)
    order = memory_order(pred)
    # of odd layouts these are copies, to be copied back
    pairs = as_pairs(dpred, order) if wanted[0] else None
    targets = as_targets(dtarget, order) if wanted[1] else None
    flat_pred, flat_target = as_pairs(pred, order), as_targets(target, order)
    rows, columns, values = flat_pred.shape
    # a sum over columns wants one program for all of them
    each = columns if wanted[1] else choose_columns(rows, columns, values)
    run(
        _pairwise_error_bwd_kernel,
        rows * ceil_div(values, BLOCK) * ceil_div(columns, each),
        derror_ptr=derror,
        pred_ptr=flat_pred,
        target_ptr=flat_target,
        dpred_ptr=pairs,
        dtarget_ptr=targets,
        **strides("derror", derror, "rc"),
        **strides("pred", flat_pred, "rcn"),
        **strides("target", flat_target, "rn"),
        **strides("dpred", pairs, "rcn"),
        **strides("dtarget", targets, "rn"),
        C=columns,
        N=values,
        columns=each,
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
    )
    if pairs is not None and pairs.data_ptr() != dpred.data_ptr():
        ordered = dpred.permute(0, 1, *order)
        ordered.copy_(pairs.view(ordered.shape))
    if targets is not None and targets.data_ptr() != dtarget.data_ptr():
        ordered = dtarget.permute(0, *(axis - 1 for axis in order))
        ordered.copy_(targets.view(ordered.shape))
    return dpred, dtarget
