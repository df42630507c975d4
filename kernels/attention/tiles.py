"""What the Triton kernels of ``attention`` do to one tile: load it, edit its logits by label, find its extremes.

Nothing here knows which way a tile lies: queries may be its rows or its columns, as long as what belongs to queries
comes as [n, 1] where keys come as [1, n], or the other way round. Logits, and all that is compared with them, are in
base 2: S times log2(e), so that the exponential is a bare exp2.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
INT_MAX = tl.constexpr(2147483647)

# planes of the statistics that forward leaves for backward, [planes, B, H, Nq] 32-bit words each. P is made again as
# exp2(S' - largest) * inverse: one rounded log-sum-exp in place of the two would cost fp32 half its accuracy
LARGEST = tl.constexpr(0)  # largest S' of the row, +inf for a row without a valid key
INVERSE = tl.constexpr(1)  # 1 / sum_j exp2(S' - largest), 0 likewise
TOP = tl.constexpr(2)  # row maximum of S over the valid keys, 0 where there is none
BOTTOM = tl.constexpr(3)  # row minimum
TOP_KEY = tl.constexpr(4)  # int32 index of the first key that has it
BOTTOM_KEY = tl.constexpr(5)

# planes that the kernel of dq leaves for the others, [3, B, H, Nq] fp32
ROW_TERM = tl.constexpr(0)  # sum_j P dP
TOP_TERM = tl.constexpr(1)  # sum_j beta dS', what the largest key receives on top
BOTTOM_TERM = tl.constexpr(2)  # sum_j gamma dS'


@triton.jit
def locate(per_head, H):
    """Place of this program among the ``per_head`` programs of its head, the head, the sample and how many there are.

    Grids have one axis, since CUDA bounds the others by 65535. The two last are int64, before any product: samples of
    a video batch lie further apart than 2**31 values.
    """
    program = tl.program_id(0)
    of_head = program // per_head
    samples = tl.num_programs(0) // (per_head * H)
    return program % per_head, of_head % H, (of_head // H).to(tl.int64), samples.to(tl.int64)


@triton.jit
def load_rows(
    base, rows, stride, limit, FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, FULL: tl.constexpr
):
    """Columns [FIRST, FIRST + WIDTH) of ``rows``, zeros past ``limit`` (never reached where FULL) and past D."""
    columns = FIRST + tl.arange(0, WIDTH)
    # int64 before the product: a row times its stride can pass 2**31
    at = base + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    if FULL:
        x = tl.load(at) if FIRST + WIDTH <= D else tl.load(at, mask=columns[None, :] < D, other=0.0)
    else:
        mask = rows[:, None] < limit
        if FIRST + WIDTH > D:
            mask = mask & (columns[None, :] < D)
        x = tl.load(at, mask=mask, other=0.0)
    return x


@triton.jit
def load_parts(
    base, rows, stride, limit, FIRST: tl.constexpr, SECOND: tl.constexpr, D: tl.constexpr, FULL: tl.constexpr
):
    """``load_rows`` of both parts of D; the first stands for the second where there is none."""
    x0 = load_rows(base, rows, stride, limit, 0, FIRST, D, FULL)
    x1 = x0
    if SECOND > 0:
        x1 = load_rows(base, rows, stride, limit, FIRST, SECOND, D, FULL)
    return x0, x1


@triton.jit
def load_key_rows(
    base,
    keys,
    stride,
    limit,
    padding_ptr,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    D: tl.constexpr,
    FULL: tl.constexpr,
):
    """``load_rows`` of keys, with zeros also at padding: what lies there must not meet a P of 0 in a product."""
    if padding_ptr is None:
        x = load_rows(base, keys, stride, limit, FIRST, WIDTH, D, FULL)
    else:
        x = load_rows_where(base, keys, stride, ~is_absent(keys, limit, padding_ptr), FIRST, WIDTH, D)
    return x


@triton.jit
def load_rows_where(base, rows, stride, kept, FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr):
    """``load_rows`` with zeros in the rows that are not ``kept``. None of these is read, so no select follows."""
    columns = FIRST + tl.arange(0, WIDTH)
    mask = kept[:, None]
    if FIRST + WIDTH > D:
        mask = mask & (columns[None, :] < D)
    return tl.load(base + rows.to(tl.int64)[:, None] * stride + columns[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(base, rows, stride, limit, x, FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr):
    """The reverse of ``load_rows``, cast to the type behind ``base``."""
    columns = FIRST + tl.arange(0, WIDTH)
    at = base + rows.to(tl.int64)[:, None] * stride + columns[None, :]
    mask = rows[:, None] < limit
    if FIRST + WIDTH > D:
        mask = mask & (columns[None, :] < D)
    tl.store(at, x.to(base.dtype.element_ty), mask=mask)


@triton.jit
def is_absent(keys, limit, padding_ptr):
    """Whether ``keys`` are padding, or lie past ``limit``."""
    return tl.load(padding_ptr + keys, mask=keys < limit, other=1) != 0


@triton.jit
def load_readout(base, keys, stride_key, stride_column, limit, M, BLOCK_M: tl.constexpr):
    """All columns of W at ``keys``, [n, BLOCK_M] fp32, zeros past both ends."""
    columns = tl.arange(0, BLOCK_M)
    at = base + keys.to(tl.int64)[:, None] * stride_key + columns.to(tl.int64)[None, :] * stride_column
    return tl.load(at, mask=(keys[:, None] < limit) & (columns[None, :] < M), other=0.0)


@triton.jit
def is_finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
def only_finite(x):
    """``x`` with 0 in the place of NaN and infinity."""
    return tl.where(is_finite(x), x, 0.0).to(x.dtype)


@triton.jit
def has_strays(x):
    """Whether any value of a tile is not finite, as a scalar 0 or 1."""
    # all at once: of an axis after the other, in a loop's results, Triton 3.7 ends its compiler on sm_100
    return tl.max(tl.where(is_finite(x), 0, 1))


@triton.jit
def stray_rows(x):
    """The rows of a tile that are not finite, 0 or 1."""
    return tl.max(tl.where(is_finite(x), 0, 1), axis=1)


@triton.jit
def find_stray_keys(base, keys, stride_key, stride_column, limit, width):
    """``stray_rows`` of ``width`` columns in memory, a few at a time: for who has no registers for all of them."""
    found = tl.zeros([keys.shape[0]], tl.int32)
    for first in range(0, width, 16):
        columns = first + tl.arange(0, 16)
        at = base + keys.to(tl.int64)[:, None] * stride_key + columns.to(tl.int64)[None, :] * stride_column
        x = tl.load(at, mask=(keys[:, None] < limit) & (columns[None, :] < width), other=0.0)
        found = tl.maximum(found, stray_rows(x))
    return found


@triton.jit
def sort_keys(base, keys, stride, limit, padding_ptr, width):
    """Which of ``keys`` have ``width`` loadable finite values, and which exist without them, 0 or 1."""
    present = keys < limit
    if padding_ptr is not None:
        present = ~is_absent(keys, limit, padding_ptr)
    finite = find_stray_keys(base, keys, stride, 1, limit, width) == 0
    return present & finite, (present & ~finite).to(tl.int32)


@triton.jit
def spoil(factor, p, strays):
    """``factor`` of each row, NaN where the row has a share ``p`` in a key that ``strays`` marks.

    Those keys' values are zeros in the product, which would give a NaN also to rows whose share is 0.
    """
    return tl.where(tl.sum(tl.where(strays[None, :] > 0, p, 0.0), axis=1)[:, None] > 0.0, float("nan"), factor)


@triton.jit
def only_seen(y, x, delta_ptr, padding_ptr):
    """``y`` with 0 where the edited logit ``x`` is that of an absent key, whose k and v may make it NaN."""
    if (delta_ptr is not None) or (padding_ptr is not None):
        y = tl.where(x == float("-inf"), 0.0, y)
    return y


@triton.jit
def without_padding(x, keys, limit, padding_ptr):
    """A tile of rows of keys with zeros at padding."""
    if padding_ptr is not None:
        x = tl.where(is_absent(keys, limit, padding_ptr)[:, None], 0.0, x)
    return x


@triton.jit
def store_sums(base, plane, row, mask, largest, total, inverse):
    """What backward makes P from again."""
    tl.store(base + LARGEST * plane + row, tl.where(total > 0.0, largest, float("inf")), mask=mask)
    tl.store(base + INVERSE * plane + row, tl.where(total > 0.0, inverse, 0.0), mask=mask)


@triton.jit
def store_extreme(base, at, at_key, mask, extreme, key):
    """A row's largest or smallest logit, and the first key that has it."""
    tl.store(base + at, extreme, mask=mask)
    tl.store(base + at_key, key.to(tl.float32, bitcast=True), mask=mask)


@triton.jit
def load_plane(base, plane, row, mask, other):
    """A statistic of each row."""
    return tl.load(base + plane + row, mask=mask, other=other)


@triton.jit
def load_key(base, plane, row, mask):
    """A plane that holds indices of keys."""
    return tl.load(base + plane + row, mask=mask, other=0.0).to(tl.int32, bitcast=True)


@triton.jit
def load_labels(base, tokens, limit, count):
    """Labels of ``tokens``, held inside [0, count) so that no table is read out of bounds."""
    labels = tl.load(base + tokens, mask=tokens < limit, other=0)
    return tl.minimum(tl.maximum(labels, 0), count - 1)


@triton.jit
def product(a0, a1, b0, b1, SECOND: tl.constexpr):
    """A B^T over the two parts of D, fp32. Never TF32: fp32 input means fp32 arithmetic."""
    x = tl.dot(a0, tl.trans(b0), input_precision="ieee")
    if SECOND > 0:
        x = tl.dot(a1, tl.trans(b1), x, input_precision="ieee")
    return x


@triton.jit
def logits(a0, a1, b0, b1, scale, SECOND: tl.constexpr, PART: tl.constexpr):
    """S of one tile, in base 2."""
    x = product(a0, a1, b0, b1, SECOND)
    # scale * log2(e), rounded as one factor, would be the largest error that fp32 sees; 16 bits do not see it
    return x * scale * LOG2E if PART is None else x * (scale * LOG2E)


@triton.jit
def dot_fp32(a, b, x, PART: tl.constexpr):
    """X + A B of fp32 tiles to fp32 accuracy on tensor cores: each is a sum of three tiles of type ``PART``.

    TF32, the other way, wants its operands laid out as no accumulator is, and spills. Without PART, plain fp32.
    """
    if PART is None:
        x = tl.dot(a, b, x, input_precision="ieee")
    else:
        b1 = b.to(PART)
        b_rest = b - b1.to(tl.float32)
        b2 = b_rest.to(PART)
        b3 = (b_rest - b2.to(tl.float32)).to(PART)
        # one part of A at a time, or the registers overflow; the three products left out are below the last bit
        part = a.to(PART)
        x = tl.dot(part, b3, x)
        x = tl.dot(part, b2, x)
        x = tl.dot(part, b1, x)
        rest = a - part.to(tl.float32)
        part = rest.to(PART)
        x = tl.dot(part, b2, x)
        x = tl.dot(part, b1, x)
        part = (rest - part.to(tl.float32)).to(PART)
        x = tl.dot(part, b1, x)
    return x


@triton.jit
def edit_pair(s, top, bottom, r, c, alpha_ptr, beta_ptr, gamma_ptr, delta_ptr, LK):
    """S' of ``s`` at labels [r, c], in whatever shapes these two have together: one scalar, one row, or all pairs."""
    at = r * LK + c
    # the row statistics meet the table before the tile does: where keys share a label this is one value a row
    bias = 0.0
    if delta_ptr is not None:
        bias = tl.load(delta_ptr + at) * LOG2E
    if beta_ptr is not None:
        bias = tl.fma(tl.load(beta_ptr + at), top, bias)
    if gamma_ptr is not None:
        bias = tl.fma(tl.load(gamma_ptr + at), bottom, bias)
    # fma by name, since contraction is off: with it a table of ones would change bits
    x = tl.fma(tl.load(alpha_ptr + at), s, bias) if alpha_ptr is not None else s + bias
    if delta_ptr is not None:
        # selected: S of an absent key may be NaN or infinite
        x = tl.where(bias == float("-inf"), float("-inf"), x)
    return x


@triton.jit
def edit_tile(
    s, top, bottom, r, c, alpha_ptr, beta_ptr, gamma_ptr, delta_ptr, LK, LOOKUP: tl.constexpr, LABELS: tl.constexpr
):
    """S' of a whole tile. ``LOOKUP`` says how the tables are read; launch.choose_lookup chose it."""
    if ((alpha_ptr is None) and (beta_ptr is None)) and ((gamma_ptr is None) and (delta_ptr is None)):
        x = s
    elif LOOKUP == "walk":
        x = s
        label = tl.min(r)
        last = tl.max(r)
        while label <= last:
            edited = edit_pair(s, top, bottom, label, c, alpha_ptr, beta_ptr, gamma_ptr, delta_ptr, LK)
            x = tl.where(r == label, edited, x)
            label = tl.min(tl.where(r > label, r, INT_MAX))
    elif LOOKUP == "unroll":
        x = s
        for label in tl.static_range(LABELS):
            edited = edit_pair(s, top, bottom, r, label, alpha_ptr, beta_ptr, gamma_ptr, delta_ptr, LK)
            x = tl.where(c == label, edited, x)
    else:
        x = edit_pair(s, top, bottom, r, c, alpha_ptr, beta_ptr, gamma_ptr, delta_ptr, LK)
    return x


@triton.jit
def weigh_tile(x, r, c, table_ptr, LK, LOOKUP: tl.constexpr, LABELS: tl.constexpr):
    """A tile times one table; the tile itself where there is none."""
    return edit_tile(x, 0.0, 0.0, r, c, table_ptr, None, None, None, LK, LOOKUP, LABELS)


@triton.jit
def keep_keys(x, keys, limit, padding_ptr, fill, FULL: tl.constexpr):
    """``x`` with ``fill`` at keys past ``limit`` (never reached where FULL) and at padding."""
    if padding_ptr is not None:
        padded = tl.load(padding_ptr + keys, mask=keys < limit, other=1)
        x = tl.where(padded == 0, x, fill)
    elif not FULL:
        x = tl.where(keys < limit, x, fill)
    return x


@triton.jit
def first_key(x, extreme, keys):
    """The first of ``keys`` at which a row of ``x`` has its ``extreme`` [n, 1]."""
    return tl.min(tl.where(x == extreme, keys, INT_MAX), axis=1)[:, None]
