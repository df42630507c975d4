"""Triton backward of ``contrastive_loss``, a band of rows against a band of columns at a time.

        G  = x_i exp(s_ik - MAX_i) - y_i [positive] + the same of the columns        made once a band, in the
        dA += G C                                                                     dtype of the features
        dC += G^T A

A band of G is a few ten megabytes, whatever the number of rows, and is read while the cache still has it. Sums run in
fp32 and in order, so nothing is atomic. p - 1 is taken in fp32, before the rounding of G.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from weft.kernels.common.device import run
from weft.kernels.common.grids import ceil_div

from . import launch
from .host import Call
from .tiles import load_lines, logits_of, pairs_of


class Factors(NamedTuple):
    """What exponentials and positives weigh in G, which is held near 1 so that 16 bits hold it.

    Attributes:
        by_row: [3, R] fp32: MAX, x and y.
        by_column: [3, K] likewise, or None where columns are not rows, too.
        scale: 0-dim fp32: what G is to be multiplied by, over the temperature.
    """

    by_row: Tensor
    by_column: Tensor | None
    scale: Tensor


@triton.jit
def _contrastive_loss_bwd_pairs_kernel(
    # inputs
    rows_ptr,  # [R, D]
    columns_ptr,  # [K, D]
    row_ids_ptr,  # [3, R] int64
    column_ids_ptr,  # [3, K] int64
    temperature_ptr,  # fp32
    by_row_ptr,  # [3, R] fp32
    by_column_ptr,  # [3, K] fp32 or None
    # outputs
    g_ptr,  # [height, width]
    products_ptr,  # [programs] fp32, sums of G * s, or None
    # sizes and scalars
    stride_rows_r,
    stride_rows_d,
    stride_columns_k,
    stride_columns_d,
    R,
    K,
    D,
    first_row,
    first_column,
    height,
    width,
    # compile-time
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EXCLUDES: tl.constexpr,
    HAS_CLASSES: tl.constexpr,
    FULL_D: tl.constexpr,
):
    row_tiles = tl.cdiv(height, BLOCK_M)
    row_tile, column_tile = tl.program_id(0) % row_tiles, tl.program_id(0) // row_tiles
    here_m = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    here_n = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    rows, columns = first_row + here_m, first_column + here_n
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
        1.0 / tl.load(temperature_ptr),
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        FULL_D,
    )
    positive, admissible = pairs_of(row_ids_ptr, column_ids_ptr, rows, columns, R, K, EXCLUDES, HAS_CLASSES)
    seen = tl.where(admissible, s, float("-inf"))

    inside = rows < R
    largest = tl.load(by_row_ptr + rows, mask=inside, other=float("inf"))
    x = tl.load(by_row_ptr + R + rows, mask=inside, other=0.0)
    y = tl.load(by_row_ptr + 2 * R + rows, mask=inside, other=0.0)
    g = x[:, None] * tl.exp(seen - largest[:, None]) - tl.where(positive, y[:, None], 0.0)
    if by_column_ptr is not None:
        inside_columns = columns < K
        largest_of_columns = tl.load(by_column_ptr + columns, mask=inside_columns, other=float("inf"))
        x_of_columns = tl.load(by_column_ptr + K + columns, mask=inside_columns, other=0.0)
        y_of_columns = tl.load(by_column_ptr + 2 * K + columns, mask=inside_columns, other=0.0)
        g += x_of_columns[None, :] * tl.exp(seen - largest_of_columns[None, :])
        g -= tl.where(positive, y_of_columns[None, :], 0.0)

    # a last tile may reach into the next band
    mask = (here_m[:, None] < height) & (here_n[None, :] < width)
    if products_ptr is not None:
        product = tl.sum(tl.sum(tl.where(mask, g * s, 0.0), axis=1), axis=0)
        tl.store(products_ptr + row_tile * tl.cdiv(width, BLOCK_N) + column_tile, product)
    at = g_ptr + here_m.to(tl.int64)[:, None] * width + here_n[None, :]
    tl.store(at, g.to(g_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _contrastive_loss_bwd_features_kernel(
    # inputs
    g_ptr,  # [M, N], either way round
    features_ptr,  # [N, D]
    scale_ptr,  # fp32
    temperature_ptr,  # fp32
    # outputs
    out_ptr,  # [M, D] fp32, added to
    # sizes and scalars
    stride_g_m,
    stride_g_n,
    stride_features_n,
    stride_features_d,
    M,
    N,
    D,
    # compile-time
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    line_tiles = tl.cdiv(M, BLOCK_M)
    lines = (tl.program_id(0) % line_tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = (tl.program_id(0) // line_tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, N, BLOCK_K):
        n = start + tl.arange(0, BLOCK_K)
        g = load_lines(g_ptr, lines, stride_g_m, M, n, stride_g_n, N, False)
        x = load_lines(features_ptr, n, stride_features_n, N, d, stride_features_d, D, False)
        total = tl.dot(g, x, total, input_precision="ieee")
    at = out_ptr + lines.to(tl.int64)[:, None] * D + d[None, :]
    inside = (lines[:, None] < M) & (d[None, :] < D)
    total *= tl.load(scale_ptr) / tl.load(temperature_ptr)
    tl.store(at, total + tl.load(at, mask=inside, other=0.0), mask=inside)


def contrastive_loss_bwd(
    call: Call, factors: Factors, drows: Tensor | None, dcolumns: Tensor | None, wants_temperature: bool
) -> Tensor | None:
    """Differentiate one segment.

    Args:
        call: The inputs of forward.
        factors: Of the weights of its lines.
        drows: [R, D] fp32, contiguous, to which the gradient of the rows is added; None if it is not wanted.
        dcolumns: [K, D] likewise.
        wants_temperature: Whether the gradient of the temperature is.

    Returns:
        That gradient, 0-dim fp32, or None.
    """
    rows, columns, _ = call.sizes
    products = []
    for i in range(0, rows, launch.BAND):
        for k in range(0, columns, launch.BAND):
            height, width = min(launch.BAND, rows - i), min(launch.BAND, columns - k)
            g = call.rows.new_empty(height, width)
            products.append(_pairs(call, factors, g, i, k, wants_temperature))
            if drows is not None:
                _add_product(call, factors, g, call.segment.columns[k : k + width], drows[i : i + height])
            if dcolumns is not None:
                _add_product(call, factors, g.T, call.rows[i : i + height], dcolumns[k : k + width])
    if not wants_temperature:
        return None
    found = sum(product.sum() for product in products)
    return -found * factors.scale / call.segment.temperature


def _pairs(call: Call, factors: Factors, g: Tensor, first_row: int, first_column: int, sums: bool) -> Tensor:
    """Write G of a band; the sums of G * s of its tiles, if asked for."""
    height, width = g.shape
    tile = call.tile("bwd_pairs", height, width)
    tiles = ceil_div(height, tile.block_m) * ceil_div(width, tile.block_n)
    products = factors.scale.new_empty(tiles if sums else 0)
    run(
        _contrastive_loss_bwd_pairs_kernel,
        tiles,
        by_row_ptr=factors.by_row,
        by_column_ptr=factors.by_column,
        g_ptr=g,
        products_ptr=products if sums else None,
        first_row=first_row,
        first_column=first_column,
        height=height,
        width=width,
        **call.arguments(tile),
    )
    return products


def _add_product(call: Call, factors: Factors, g: Tensor, features: Tensor, out: Tensor) -> None:
    """Add G [M, N] times ``features`` [N, D], scaled, to ``out`` [M, D]."""
    lines, width = out.shape
    tile = call.tile("bwd_features", lines, width)
    run(
        _contrastive_loss_bwd_features_kernel,
        ceil_div(lines, tile.block_m) * ceil_div(width, tile.block_n),
        g_ptr=g,
        features_ptr=features,
        scale_ptr=factors.scale,
        temperature_ptr=call.segment.temperature,
        out_ptr=out,
        stride_g_m=g.stride(0),
        stride_g_n=g.stride(1),
        stride_features_n=features.stride(0),
        stride_features_d=features.stride(1),
        M=lines,
        N=g.shape[1],
        D=width,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        BLOCK_K=tile.block_k,
        **tile.options,
    )
