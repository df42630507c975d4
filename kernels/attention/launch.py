"""How the Triton kernels of ``attention`` are launched: shapes and device in, records out.

Plain arithmetic, neither torch nor triton; the tiles themselves are rows of ``launch_table.TABLE``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from weft.kernels.common import grids
from weft.kernels.common.grids import MIN_BLOCK, power_of_two, stand_in

from .launch_table import TABLE, Row, Tile

# one launch keeps this many read-out columns in registers; beyond it the tiles spill
MAX_COLUMNS = 128
# above it a chain of selects, one a key label, costs more than a two-dimensional gather
MAX_UNROLLED_LABELS = 8
# whole rows of logits fit one tile up to here
MOST_SHORT_KEYS = 128
# How a kernel reads tables that both kinds of label index. A row or a column of a table that lies along the rows of
# the tile costs a few registers, one along its columns as many as the tile is wide / 4. Walking over labels costs a
# reduction each, and a loop inside a loop, which then is not pipelined.
BOTH_LABELS = {
    "fwd_short": "walk",
    "fwd_long": "unroll",
    "bwd_q": "unroll",
    # keys are its rows: columns for each key label would lie across
    "bwd_kv": "gather",
    "bwd_tables": "unroll",
}


@dataclass(frozen=True)
class HeadParts:
    """Powers of two that cover D: one part, or two where that pays less padding (80 = 64 + 16, not 128).

    Attributes:
        first: Width of the columns [0, first).
        second: Width of the columns from ``first`` on; 0 for none. Columns past D are masked.
    """

    first: int
    second: int


def split_head_dim(head_dim: int) -> HeadParts:
    """The cheapest cover of ``head_dim`` by one or two powers of two, each at least ``MIN_BLOCK``."""
    whole = power_of_two(head_dim)
    half = whole // 2
    if half < MIN_BLOCK:
        return HeadParts(whole, 0)
    rest = power_of_two(head_dim - half)
    return HeadParts(half, rest) if half + rest < whole else HeadParts(whole, 0)


def value_width(head_dim: int, columns: int) -> int:
    """D as far as registers are concerned: many read-out columns weigh like so many more of V, a few do not matter."""
    return min(256, head_dim + (columns if columns > MIN_BLOCK else 0))


# rows from outside the table, see launch_file.py
_user_rows: tuple[Row, ...] = ()


def use_rows(rows: Iterable[Row]) -> None:
    """Let ``rows``, in place of those given before, go before the rows of the table that serve the same."""
    global _user_rows
    _user_rows = tuple(rows)
    choose_tile.cache_clear()


@lru_cache(maxsize=1024)
def choose_tile(kernel: str, arch: int, itemsize: int, head_dim: int, seqlen_q: int, seqlen_k: int) -> Tile:
    """The tile of the row that ``choose_row`` finds, cut to lengths that are shorter."""
    return cut_tile(choose_row(kernel, arch, itemsize, head_dim, seqlen_k).tile, seqlen_q, seqlen_k)


def choose_row(kernel: str, arch: int, itemsize: int, head_dim: int, seqlen_k: int) -> Row:
    """The narrowest row that covers a shape.

    Args:
        kernel: A kernel named in the table.
        arch: Compute capability without its point: 80, 86, 89, 90, 100, 120.
        itemsize: Bytes of one value of q, k and v: 2 or 4.
        head_dim, seqlen_k: D, Nk.

    Raises:
        LookupError: The table has no row for this kernel, item size and head width.
    """
    # its own rows, complete or not, and those of its stand-in
    archs = tuple(dict.fromkeys((arch, stand_in(arch))))
    fits = [
        row
        for row in (*_user_rows, *TABLE)
        if (row.kernel, row.itemsize) == (kernel, itemsize)
        and row.arch in archs
        and head_dim <= row.max_head_dim
        and seqlen_k <= row.max_seqlen_k
    ]
    if not fits:
        raise LookupError(f"attention: no launch row for {kernel}, sm_{arch}, {itemsize} bytes, D = {head_dim}")
    # of rows that cover the same the first: an architecture's own before its stand-in's, a user's before the table's
    return min(fits, key=lambda row: (row.max_head_dim, row.max_seqlen_k, archs.index(row.arch)))


def cut_tile(tile: Tile, seqlen_q: int, seqlen_k: int) -> Tile:
    """``tile`` without the rows and columns that these lengths leave empty."""
    return replace(
        tile,
        block_q=min(tile.block_q, power_of_two(seqlen_q)),
        block_k=min(tile.block_k, power_of_two(seqlen_k)),
    )


def choose_forward(seqlen_k: int) -> str:
    """The forward kernel for this many keys: whole rows while they fit one tile, online softmax beyond."""
    return "fwd_short" if seqlen_k <= MOST_SHORT_KEYS else "fwd_long"


def choose_lookup(kernel: str, by_query: bool, by_key: bool, key_labels: int) -> str:
    """How ``kernel`` reads the tables.

    Returns:
        "gather" reads at [r, c] as they are: a scalar, a row or a column unless both labels are there.
        "walk"   visits the query labels that a tile holds, one row of the table each.
        "unroll" visits all key labels, one column of the table each.
    """
    if not (by_query and by_key):
        return "gather"
    how = BOTH_LABELS[kernel]
    return "gather" if how == "unroll" and key_labels > MAX_UNROLLED_LABELS else how


def choose_stages(tile: Tile, lookup: str, both_labels: bool) -> int:
    """Depth of the load pipeline: none where whole tiles of tables are gathered, which would be buffered as well."""
    return 1 if lookup == "gather" and both_labels else tile.num_stages


def choose_tiles_per_program(tiles: int, groups: int, most: int) -> int:
    """Query tiles that one program does in turn, so that it reads its keys once, while enough programs are left.

    Args:
        tiles: Query tiles of one head.
        groups: B * H.
        most: The tile's own limit.
    """
    return max(1, min(most, tiles * groups // grids.MIN_PROGRAMS))
