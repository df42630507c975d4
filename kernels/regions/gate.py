"""Triton kernels of ``concept_gate``: one program a map finds its threshold, with all its cells in registers.

Masks that do not depend on each other are written by the same launch. Where the largest of several maps takes a cell,
a second launch compares them, and the first hands it three numbers a map.
Traffic: reads each map once, twice with a second launch, which finds it in L2; writes the gate once.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from weft.kernels.common.device import run

from .launch import choose_gate_launch

INT_MIN = tl.constexpr(-2147483648)
INT_MAX = tl.constexpr(2147483647)
INFINITY_BITS = tl.constexpr(0x7F800000)
BINS = tl.constexpr(256)


@triton.jit
def _ordered(bits):
    """Integers in the order of the floats whose bits these are; its own inverse."""
    return bits ^ ((bits >> 31) & INT_MAX)


@triton.jit
def _lower_median(x, mask_n, N):
    """The value of rank (N - 1) // 2: the largest with no more than that many below it, bit by bit."""
    keys = tl.where(mask_n, _ordered(x.to(tl.int32, bitcast=True)), INT_MAX)
    rank = (N - 1) // 2
    found = tl.full((), INT_MIN, tl.int32)
    if tl.sum((keys < 0).to(tl.int32), axis=0) <= rank:
        found = tl.full((), 0, tl.int32)
    step = tl.full((), 1 << 30, tl.int32)
    for _ in range(31):
        few = tl.sum((keys < found + step).to(tl.int32), axis=0) <= rank
        found = tl.where(few, found + step, found)
        step = step >> 1
    return _ordered(found).to(tl.float32, bitcast=True)


@triton.jit
def _otsu_cut(scaled, mask_n, N, BLOCK_N: tl.constexpr):
    """Where the upper class begins on the range [0, 1] of ``scaled``: the lower edge of its first bin."""
    bins = tl.minimum((scaled * BINS).to(tl.int32), BINS - 1)
    histogram = tl.histogram(tl.where(mask_n, bins, 0), BINS)
    b = tl.arange(0, BINS)
    # padding lanes were counted in bin 0: older versions of tl.histogram take no mask
    count = tl.cumsum(histogram - tl.where(b == 0, BLOCK_N - N, 0), axis=0).to(tl.int64)
    weighted = histogram * b
    total = tl.cumsum(weighted, axis=0).to(tl.int64)
    root = (tl.sum(weighted, axis=0).to(tl.int64) * count - N * total).to(tl.float64)
    within = (count * (N - count)).to(tl.float64)
    splits = (within > 0) & (b < BINS - 1)
    criterion = tl.where(splits, root * root / tl.where(splits, within, 1.0), -1.0)
    best = tl.min(tl.where(criterion == tl.max(criterion, axis=0), b, BINS), axis=0)  # the first of equals
    return (best + 1).to(tl.float32) / BINS


@triton.jit
def _scale_to_one(x, low, span):
    """``x`` on the range of its map; 0 where that is no range."""
    usable = (span > 0) & (span < float("inf"))
    # the definition rounds to nearest; a plain division would not
    return tl.where(usable, tl.div_rn(x - low, tl.where(usable, span, 1.0)), 0.0)


@triton.jit
def _concept_gate_map_kernel(
    # inputs
    maps_ptr,  # [B, N, K]
    strengths_ptr,  # [B', K]
    # outputs
    out_ptr,  # [B', N, K] fp32, contiguous; with WRITES_GATE
    ranges_ptr,  # [B, K, 3] fp32: low, span (nan: not finite), cut; without
    # sizes and scalars
    B,
    N,
    K,
    repeats,
    level,
    stride_maps_b,
    stride_maps_n,
    stride_maps_k,
    stride_strengths_b,
    stride_strengths_k,
    # compile-time
    RULE: tl.constexpr,
    WRITES_GATE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # int64 before the products: maps may be a few columns of something large
    sample = (tl.program_id(0) % B).to(tl.int64)
    k = (tl.program_id(0) // B).to(tl.int64)
    offs_n = tl.arange(0, BLOCK_N).to(tl.int64)
    mask_n = offs_n < N

    map_ptr = maps_ptr + sample * stride_maps_b + k * stride_maps_k
    # padding repeats the first cell, which changes neither the least nor the largest value
    x = tl.load(map_ptr + tl.where(mask_n, offs_n, 0) * stride_maps_n).to(tl.float32)
    finite = tl.max(x.to(tl.int32, bitcast=True) & INT_MAX, axis=0) < INFINITY_BITS
    low = tl.min(x, axis=0)
    span = tl.where(finite, tl.max(x, axis=0) - low, float("nan"))

    if RULE == "otsu":
        scaled = _scale_to_one(x, low, span)
        cut = _otsu_cut(scaled, mask_n, N, BLOCK_N)
        inside = scaled >= cut
    else:
        cut = _lower_median(x, mask_n, N) if RULE == "median" else low + level * span
        cut = tl.where(span < float("inf"), cut, float("inf"))
        inside = x > cut

    if WRITES_GATE:
        for repeat in range(repeats):
            row = repeat * B + sample
            strength = tl.load(strengths_ptr + row * stride_strengths_b + k * stride_strengths_k)
            tl.store(out_ptr + (row * N + offs_n) * K + k, tl.where(inside, strength, 0.0), mask=mask_n)
    else:
        ranges_ptr += (sample * K + k) * 3
        tl.store(ranges_ptr, low)
        tl.store(ranges_ptr + 1, span)
        tl.store(ranges_ptr + 2, cut)


@triton.jit
def _concept_gate_overlap_kernel(
    # inputs
    maps_ptr,  # [B, N, K]
    strengths_ptr,  # [B', K]
    ranges_ptr,  # [B, K, 3] fp32: low, span, cut
    # outputs
    out_ptr,  # [B', N, K] fp32, contiguous
    # sizes and scalars
    B,
    N,
    K,
    repeats,
    stride_maps_b,
    stride_maps_n,
    stride_maps_k,
    stride_strengths_b,
    stride_strengths_k,
    # compile-time
    IS_OTSU: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    sample = (tl.program_id(0) % B).to(tl.int64)
    offs_n = (tl.program_id(0) // B).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K).to(tl.int64)
    mask_k = offs_k < K
    mask = (offs_n < N)[:, None] & mask_k[None, :]

    at = sample * stride_maps_b + offs_n[:, None] * stride_maps_n + offs_k[None, :] * stride_maps_k
    x = tl.load(maps_ptr + at, mask=mask, other=0.0).to(tl.float32)
    of_map = ranges_ptr + (sample * K + offs_k) * 3
    low = tl.load(of_map, mask=mask_k, other=0.0)
    span = tl.load(of_map + 1, mask=mask_k, other=0.0)
    cut = tl.load(of_map + 2, mask=mask_k, other=0.0)
    scaled = _scale_to_one(x, low[None, :], span[None, :])
    inside = scaled >= cut[None, :] if IS_OTSU else x > cut[None, :]

    for repeat in range(repeats):
        row = repeat * B + sample
        of_row = strengths_ptr + row * stride_strengths_b + offs_k * stride_strengths_k
        strength = tl.load(of_row, mask=mask_k, other=0.0)
        acting = (strength != 0) & (span < float("inf"))
        contest = tl.where(acting[None, :], scaled, -1.0)
        largest = tl.max(contest, axis=1)
        winner = tl.min(tl.where(contest == largest[:, None], offs_k[None, :], BLOCK_K), axis=1)  # the first of equals
        won = inside & (offs_k[None, :] == winner[:, None])
        gate = tl.where(won, strength[None, :], 0.0)
        tl.store(out_ptr + (row * N + offs_n[:, None]) * K + offs_k[None, :], gate, mask=mask)


def concept_gate_fwd(maps: Tensor, strengths: Tensor, rule: str | float, overlap: str, out: Tensor) -> None:
    """Fill ``out`` as ``concept_gate_reference`` does, which says what the arguments are."""
    samples, cells, concepts = maps.shape
    repeats = strengths.shape[0] // samples
    competes = concepts > 1 and overlap == "largest"
    tiles = choose_gate_launch(cells, concepts)
    ranges = out.new_empty((samples, concepts, 3)) if competes else None
    run(
        _concept_gate_map_kernel,
        samples * concepts,
        maps,
        strengths,
        out,
        ranges,
        samples,
        cells,
        concepts,
        repeats,
        rule if isinstance(rule, float) else 0.0,
        *maps.stride(),
        *strengths.stride(),
        RULE=rule if isinstance(rule, str) else "level",
        WRITES_GATE=not competes,
        BLOCK_N=tiles.block_map,
        num_warps=tiles.map_warps,
        # contraction would round the threshold otherwise than the definition does
        enable_fp_fusion=False,
    )
    if competes:
        run(
            _concept_gate_overlap_kernel,
            samples * triton.cdiv(cells, tiles.block_n),
            maps,
            strengths,
            ranges,
            out,
            samples,
            cells,
            concepts,
            repeats,
            *maps.stride(),
            *strengths.stride(),
            IS_OTSU=rule == "otsu",
            BLOCK_N=tiles.block_n,
            BLOCK_K=tiles.block_k,
            num_warps=tiles.overlap_warps,
            enable_fp_fusion=False,
        )
