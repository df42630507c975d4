"""What the Triton kernels of ``contrastive_loss`` share: a tile of logits, and what its pairs are."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_lines(base, lines, stride_line, count, d, stride_d, D, FULL_D: tl.constexpr):
    """Features [lines, d]; zeros past ``count`` lines and, unless FULL_D, past D."""
    # int64 before the products: they can pass 2**31
    at = base + lines.to(tl.int64)[:, None] * stride_line + d.to(tl.int64)[None, :] * stride_d
    mask = lines[:, None] < count
    if not FULL_D:
        mask = mask & (d[None, :] < D)
    return tl.load(at, mask=mask, other=0.0)


@triton.jit
def logits_of(
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
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FULL_D: tl.constexpr,
):
    """Products of rows and columns over the temperature, [BLOCK_M, BLOCK_N] fp32; zeros outside."""
    s = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, D, BLOCK_K):
        d = start + tl.arange(0, BLOCK_K)
        a = load_lines(rows_ptr, rows, stride_rows_r, R, d, stride_rows_d, D, FULL_D)
        c = load_lines(columns_ptr, columns, stride_columns_k, K, d, stride_columns_d, D, FULL_D)
        # never TF32: fp32 input means fp32 arithmetic
        s = tl.dot(a, tl.trans(c), s, input_precision="ieee")
    return s * inverse_temperature


@triton.jit
def equal_ids(row_ids_ptr, column_ids_ptr, rows, columns, R, K, LINE: tl.constexpr):
    """Which pairs have equal ids in a line of both; bool [BLOCK_M, BLOCK_N], without meaning outside."""
    of_rows = tl.load(row_ids_ptr + LINE * R + rows, mask=rows < R, other=0)
    of_columns = tl.load(column_ids_ptr + LINE * K + columns, mask=columns < K, other=0)
    return of_rows[:, None] == of_columns[None, :]


@triton.jit
def pairs_of(row_ids_ptr, column_ids_ptr, rows, columns, R, K, EXCLUDES: tl.constexpr, HAS_CLASSES: tl.constexpr):
    """Which pairs are positive, and which are admissible; both False outside."""
    admissible = (rows[:, None] < R) & (columns[None, :] < K)
    positive = admissible & equal_ids(row_ids_ptr, column_ids_ptr, rows, columns, R, K, 0)
    if EXCLUDES:
        admissible = admissible & (equal_ids(row_ids_ptr, column_ids_ptr, rows, columns, R, K, 1) == 0)
        positive = positive & admissible
    if HAS_CLASSES:
        same = equal_ids(row_ids_ptr, column_ids_ptr, rows, columns, R, K, 2)
        admissible = admissible & (positive | (same == 0))
    return positive, admissible
