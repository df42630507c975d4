"""Triton forward of ``contrastive_loss``: one sweep over all pairs gives the statistics of rows and of columns.

A program sweeps a part of the rows against a part of the columns, tile by tile. What it finds of its rows, it keeps in
registers while it goes along the columns; what it finds of its columns, it keeps in memory that is its own and adds to
at its next rows. Parts are merged afterwards, in order, so nothing is atomic. Traffic: features once a program, four
numbers a line and part.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from weft.kernels.common.device import run
from weft.kernels.common.grids import ceil_div

from . import launch
from .host import Call
from .tiles import logits_of, pairs_of

# finite, so that it can be subtracted from itself: the maximum of nothing yet
LOWEST: tl.constexpr = tl.constexpr(-3.0e38)


@triton.jit
def _contrastive_loss_fwd_kernel(
    # inputs
    rows_ptr,  # [R, D]
    columns_ptr,  # [K, D]
    row_ids_ptr,  # [3, R] int64
    column_ids_ptr,  # [3, K] int64
    temperature_ptr,  # fp32
    # outputs
    by_row_ptr,  # [parts of columns, 4, R] fp32
    by_column_ptr,  # [parts of rows, 4, K] fp32 or None
    # sizes and scalars
    stride_rows_r,
    stride_rows_d,
    stride_columns_k,
    stride_columns_d,
    R,
    K,
    D,
    row_tiles,  # of a part
    column_tiles,
    # compile-time
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EXCLUDES: tl.constexpr,
    HAS_CLASSES: tl.constexpr,
    FULL_D: tl.constexpr,
):
    inverse_temperature = 1.0 / tl.load(temperature_ptr)
    row_parts = tl.cdiv(tl.cdiv(R, BLOCK_M), row_tiles)
    row_part, column_part = tl.program_id(0) % row_parts, tl.program_id(0) // row_parts
    by_row_ptr += column_part.to(tl.int64) * 4 * R
    if by_column_ptr is not None:
        by_column_ptr += row_part.to(tl.int64) * 4 * K
    first_row_tile = row_part * row_tiles
    first_column_tile = column_part * column_tiles

    for row_tile in range(first_row_tile, tl.minimum(first_row_tile + row_tiles, tl.cdiv(R, BLOCK_M))):
        rows = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
        largest = tl.full([BLOCK_M], LOWEST, tl.float32)
        sums = tl.zeros([BLOCK_M], tl.float32)
        count = tl.zeros([BLOCK_M], tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        for column_tile in range(first_column_tile, tl.minimum(first_column_tile + column_tiles, tl.cdiv(K, BLOCK_N))):
            columns = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
            s = logits_of(
                rows_ptr,
                columns_ptr,
                rows,
                columns,
                stride_rows_r,
                stride_rows_d,
                stride_columns_k,
                stride_columns_d,
                R,
                K,
                D,
                inverse_temperature,
                BLOCK_M,
                BLOCK_N,
                BLOCK_K,
                FULL_D,
            )
            positive, admissible = pairs_of(row_ids_ptr, column_ids_ptr, rows, columns, R, K, EXCLUDES, HAS_CLASSES)
            of_positives = tl.where(positive, s, 0.0)
            seen = tl.where(admissible, s, float("-inf"))

            before = largest
            largest = tl.maximum(before, tl.max(seen, axis=1))
            sums = sums * tl.exp(before - largest) + tl.sum(tl.exp(seen - largest[:, None]), axis=1)
            count += tl.sum(positive.to(tl.float32), axis=1)
            total += tl.sum(of_positives, axis=1)

            if by_column_ptr is not None:
                at = by_column_ptr + columns
                inside = columns < K
                # nothing was stored yet at the first rows
                stored = inside & (row_tile > first_row_tile)
                before_of_columns = tl.load(at, mask=stored, other=LOWEST)
                largest_of_columns = tl.maximum(before_of_columns, tl.max(seen, axis=0))
                sums_of_columns = tl.load(at + K, mask=stored, other=0.0)
                sums_of_columns *= tl.exp(before_of_columns - largest_of_columns)
                sums_of_columns += tl.sum(tl.exp(seen - largest_of_columns[None, :]), axis=0)
                count_of_columns = tl.load(at + 2 * K, mask=stored, other=0.0)
                count_of_columns += tl.sum(positive.to(tl.float32), axis=0)
                total_of_columns = tl.load(at + 3 * K, mask=stored, other=0.0)
                total_of_columns += tl.sum(of_positives, axis=0)
                tl.debug_barrier()  # all warps have read what is now replaced
                tl.store(at, largest_of_columns, mask=inside)
                tl.store(at + K, sums_of_columns, mask=inside)
                tl.store(at + 2 * K, count_of_columns, mask=inside)
                tl.store(at + 3 * K, total_of_columns, mask=inside)
        if by_column_ptr is not None:
            tl.debug_barrier()  # all warps see it at the next rows

        at = by_row_ptr + rows
        inside = rows < R
        tl.store(at, largest, mask=inside)
        tl.store(at + R, sums, mask=inside)
        tl.store(at + 2 * R, count, mask=inside)
        tl.store(at + 3 * R, total, mask=inside)


def contrastive_loss_fwd(call: Call) -> Tensor:
    """Statistics of one segment.

    Args:
        call: The inputs, checked by the public function; float32, float16 or bfloat16; ids contiguous.

    Returns:
        [4, R], or [4, R + K] where symmetric, fp32: maximum, sum, count and total, as the definition has them.
    """
    rows, columns, _ = call.sizes
    tile = call.tile("fwd", rows, columns)
    tiles = ceil_div(rows, tile.block_m), ceil_div(columns, tile.block_n)
    each = launch.choose_parts(*tiles)
    parts = ceil_div(tiles[0], each[0]), ceil_div(tiles[1], each[1])
    by_row = call.segment.temperature.new_empty(parts[1], 4, rows)
    by_column = call.segment.temperature.new_empty(parts[0], 4, columns) if call.segment.symmetric else None
    run(
        _contrastive_loss_fwd_kernel,
        parts[0] * parts[1],
        by_row_ptr=by_row,
        by_column_ptr=by_column,
        row_tiles=each[0],
        column_tiles=each[1],
        **call.arguments(tile),
    )
    merged = _merged(by_row)
    return merged if by_column is None else torch.cat([merged, _merged(by_column)], 1)


def _merged(parts: Tensor) -> Tensor:
    """Statistics [4, lines] of those of all parts, [parts, 4, lines]."""
    maxima, sums, counts, totals = parts.unbind(1)
    largest = maxima.amax(0)
    total_sum = (sums * (maxima - largest).exp()).sum(0)
    count = counts.sum(0)
    has = count > 0
    return torch.stack([largest.where(has, torch.inf), total_sum.where(has, 1.0), count, totals.sum(0)])
