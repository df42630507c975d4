"""Triton forward of ``best_windows``: one program a sample, from maps to windows in one launch.

The maps stay as they are in memory. Which objects protect a cell, and whose windows cover it, are bits beside the
cell; a map is weakened by them whenever it is loaded, in the order of the definition, so float64 gives the same bits.
Traffic: reads each map twice; the integral image of one map at a time goes through L2 to be read at the corners.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from weft.kernels.common.device import run

from .arguments import Search
from .launch import choose_search_launch

INT_MAX = tl.constexpr(2147483647)
INT64_MIN = tl.constexpr(-9223372036854775808)
INT64_MAX = tl.constexpr(9223372036854775807)


@triton.jit
def _scale_where(x, bits, o, FACTOR: tl.constexpr):
    """``x`` times FACTOR where bit ``o`` is set, in float64: a scalar argument would be rounded to float32."""
    return tl.where(((bits >> o) & 1) != 0, x * tl.full((), FACTOR, tl.float64), x)


@triton.jit
def _load_protected(map_ptr, at, inside, protectors, own, n, FACTOR: tl.constexpr):
    """The map of object ``own``, weakened where others protect."""
    x = tl.load(map_ptr + at, mask=inside, other=0.0).to(tl.float64)
    others = protectors & ~(1 << own)
    for o in range(n):
        x = _scale_where(x, others, o, FACTOR)
    return x


@triton.jit
def _largest_cells(x, inside, count):
    """The ``count`` largest cells, the earliest of equals first, by finding their least value bit by bit."""
    # integers in the order of the floats; both zeros are equal
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int64, bitcast=True)
    keys = bits ^ ((bits >> 63) & INT64_MAX)
    keys = tl.where(inside, keys, INT64_MIN)
    threshold = tl.full((), INT64_MIN, tl.int64)
    if tl.sum((keys >= 0).to(tl.int32), axis=0) >= count:
        threshold = tl.full((), 0, tl.int64)
    step = tl.full((), 1, tl.int64) << 62
    for _ in range(63):
        enough = tl.sum((keys >= threshold + step).to(tl.int32), axis=0) >= count
        threshold = tl.where(enough, threshold + step, threshold)
        step = step >> 1
    above = keys > threshold
    equal = keys == threshold
    left = count - tl.sum(above.to(tl.int32), axis=0)
    return above | (equal & (tl.cumsum(equal.to(tl.int32), axis=0) <= left))


@triton.jit
def _corner(integral_ptr, row, column, w, mask):
    """The integral image up to and including (row, column), 0 before the first of either."""
    return tl.load(integral_ptr + row * w + column, mask=mask & (row >= 0) & (column >= 0), other=0.0)


@triton.jit
def _best_windows_fwd_kernel(
    # inputs
    maps_ptr,  # [B, n, h, w]
    candidates_ptr,  # [P, 4] int32
    present_ptr,  # [B, n] uint8 or None
    # outputs
    windows_ptr,  # [B, n, 4] int32
    integral_ptr,  # [B, h, w] fp64, scratch
    # sizes and scalars
    n,
    h,
    w,
    P,
    protected,
    gap,
    fallback_height,
    fallback_width,
    # compile-time
    PROTECT_FACTOR: tl.constexpr,
    EXCLUSION: tl.constexpr,  # None forbids overlap
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    maps_ptr += sample * n * h * w
    windows_ptr += sample * n * 4
    integral_ptr += sample * h * w
    # in reading order, padding included: what is earliest among cells is earliest among these
    cells = tl.arange(0, BLOCK_H * BLOCK_W)
    row, column = cells // BLOCK_W, cells % BLOCK_W
    inside = (row < h) & (column < w)
    at = row * w + column

    protectors = tl.zeros([BLOCK_H * BLOCK_W], tl.int32)
    if protected > 0:
        for o in range(n):
            here = True if present_ptr is None else tl.load(present_ptr + sample * n + o) != 0
            if here:
                x = _load_protected(maps_ptr + o * h * w, at, inside, protectors, o, n, PROTECT_FACTOR)
                protectors |= _largest_cells(x, inside, protected).to(tl.int32) << o

    covering = tl.zeros([BLOCK_H * BLOCK_W], tl.int32)
    for o in range(n):
        x = _load_protected(maps_ptr + o * h * w, at, inside, protectors, o, n, PROTECT_FACTOR)
        if EXCLUSION is not None:
            for earlier in range(o):
                x = _scale_where(x, covering, earlier, EXCLUSION)
        sums = tl.cumsum(tl.cumsum(tl.reshape(x, (BLOCK_H, BLOCK_W)), axis=0), axis=1)
        tl.store(integral_ptr + at, tl.reshape(sums, (BLOCK_H * BLOCK_W,)), mask=inside)
        tl.debug_barrier()  # other threads' sums, and the windows chosen so far, are read from here on

        best = tl.full((), 0.0, tl.float64)
        best_at = tl.full((), -1, tl.int32)
        for first in range(0, P, BLOCK_P):
            p = first + tl.arange(0, BLOCK_P)
            mask = p < P
            top = tl.load(candidates_ptr + 4 * p, mask=mask, other=0)
            left = tl.load(candidates_ptr + 4 * p + 1, mask=mask, other=0)
            height = tl.load(candidates_ptr + 4 * p + 2, mask=mask, other=1)
            width = tl.load(candidates_ptr + 4 * p + 3, mask=mask, other=1)
            bottom, right = top + height, left + width
            end = _corner(integral_ptr, bottom - 1, right - 1, w, mask)
            above = _corner(integral_ptr, top - 1, right - 1, w, mask)
            before = _corner(integral_ptr, bottom - 1, left - 1, w, mask)
            start = _corner(integral_ptr, top - 1, left - 1, w, mask)
            means = (end - above - before + start) / (height * width).to(tl.float64)
            if EXCLUSION is None:
                for earlier in range(o):
                    taken_top = tl.load(windows_ptr + 4 * earlier)
                    taken_left = tl.load(windows_ptr + 4 * earlier + 1)
                    taken_bottom = taken_top + tl.load(windows_ptr + 4 * earlier + 2)
                    taken_right = taken_left + tl.load(windows_ptr + 4 * earlier + 3)
                    apart = (top >= taken_bottom + gap) | (bottom + gap <= taken_top)
                    apart |= (left >= taken_right + gap) | (right + gap <= taken_left)
                    # a window of an object that has none takes nothing
                    apart |= (taken_bottom <= taken_top) | (taken_right <= taken_left)
                    mask = mask & apart
            means = tl.where(mask, means, float("-inf"))
            block_best = tl.max(means, axis=0)
            block_at = tl.min(tl.where(means == block_best, p, INT_MAX), axis=0)
            best_at = tl.where(block_best > best, block_at, best_at)
            best = tl.maximum(block_best, best)

        found = best_at >= 0
        top = tl.load(candidates_ptr + 4 * best_at, mask=found, other=0)
        left = tl.load(candidates_ptr + 4 * best_at + 1, mask=found, other=0)
        height = tl.load(candidates_ptr + 4 * best_at + 2, mask=found, other=fallback_height)
        width = tl.load(candidates_ptr + 4 * best_at + 3, mask=found, other=fallback_width)
        if present_ptr is not None:
            here = tl.load(present_ptr + sample * n + o).to(tl.int32)
            top, left, height, width = top * here, left * here, height * here, width * here
        tl.store(windows_ptr + 4 * o, top)
        tl.store(windows_ptr + 4 * o + 1, left)
        tl.store(windows_ptr + 4 * o + 2, height)
        tl.store(windows_ptr + 4 * o + 3, width)
        covered = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
        covering |= covered.to(tl.int32) << o
        tl.debug_barrier()  # all warps have read the sums before the next object's replace them


def best_windows_fwd(search: Search, candidates: Tensor) -> Tensor:
    """Windows [B, n, 4] int32 of ``best_windows_reference``.

    Args:
        search: Its maps and ``present`` are copied where they are not contiguous.
        candidates: [P, 4] int32, every admissible window in the order in which equals are preferred; contiguous.
    """
    maps, present = search.maps, search.present
    samples, objects, height, width = maps.shape
    windows = maps.new_empty((samples, objects, 4), dtype=torch.int32)
    if not windows.numel():
        return windows
    tiles = choose_search_launch(height, width, len(candidates))
    run(
        _best_windows_fwd_kernel,
        samples,
        maps.contiguous(),
        candidates,
        None if present is None else present.contiguous().view(torch.uint8),
        windows,
        maps.new_empty((samples, height, width), dtype=torch.float64),
        objects,
        height,
        width,
        len(candidates),
        search.protected,
        search.gap,
        *search.fallback,
        PROTECT_FACTOR=search.protect_factor,
        EXCLUSION=search.exclusion,
        BLOCK_H=tiles.block_h,
        BLOCK_W=tiles.block_w,
        BLOCK_P=tiles.block_p,
        num_warps=tiles.num_warps,
        # a pipelined loop would read sums and windows before they are written
        num_stages=1,
        # contraction would round the weakened maps otherwise than the definition does
        enable_fp_fusion=False,
    )
    return windows
