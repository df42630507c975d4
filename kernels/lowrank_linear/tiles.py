"""What the Triton kernels of ``lowrank_linear`` load and store: tiles of rows [B, N, C] and of matrices, any strides.

The samples' rows are counted through, m = b N + n, so that a tile may run from one sample into the next and short
samples fill a tile together.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row_offsets(rows, N, stride_b, stride_n):
    """Where rows m of [B, N, ...] begin, in values. int64 before the products: they can pass 2**31."""
    samples = rows // N
    return samples.to(tl.int64) * stride_b + (rows - samples * N).to(tl.int64) * stride_n


@triton.jit
def load_tile(base, offsets, columns, stride, rows_inside, width, FULL: tl.constexpr):
    """Values [m, n] at ``offsets`` and ``columns``; zeros outside the rows and, unless FULL, past ``width``."""
    at = base + offsets[:, None] + columns.to(tl.int64)[None, :] * stride
    mask = rows_inside[:, None]
    if not FULL:
        mask = mask & (columns[None, :] < width)
    return tl.load(at, mask=mask, other=0.0)


@triton.jit
def load_matrix(base, rows, stride_row, height, columns, stride_column, width, FULL_ROWS: tl.constexpr):
    """Values [rows, columns] of a matrix [height, width]; zeros outside, rows never being outside where FULL_ROWS."""
    at = base + rows.to(tl.int64)[:, None] * stride_row + columns.to(tl.int64)[None, :] * stride_column
    mask = columns[None, :] < width
    if not FULL_ROWS:
        mask = mask & (rows[:, None] < height)
    return tl.load(at, mask=mask, other=0.0)


@triton.jit
def load_gate(gate_ptr, concept_ptr, offsets, ranks, rows_inside, stride_k, R):
    """G, [m, ranks] fp32, each rank with the gate of its concept; zeros outside."""
    inside = ranks < R
    concepts = tl.load(concept_ptr + ranks, mask=inside, other=0)
    at = gate_ptr + offsets[:, None] + concepts.to(tl.int64)[None, :] * stride_k
    return tl.load(at, mask=rows_inside[:, None] & inside[None, :], other=0.0)


@triton.jit
def store_tile(base, offsets, columns, stride, rows_inside, width, x):
    """The reverse of ``load_tile``, cast to the type behind ``base``."""
    at = base + offsets[:, None] + columns.to(tl.int64)[None, :] * stride
    tl.store(at, x.to(base.dtype.element_ty), mask=rows_inside[:, None] & (columns[None, :] < width))


@triton.jit
def dot(a, b, x):
    """X + A B in fp32. Never TF32: fp32 input means fp32 arithmetic."""
    return tl.dot(a, b, x, input_precision="ieee")
