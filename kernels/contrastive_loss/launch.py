"""How the Triton kernels of ``contrastive_loss`` are launched: shapes and device in, records out.

Plain arithmetic, neither torch nor triton; the tiles themselves are rows of ``launch_table.TABLE``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from .launch_table import TABLE, Tile

# two programs for each of the 132 processors of an H100
WANTED_PROGRAMS = 264
# backward holds the gradients at so many rows times so many columns at once: 32 MiB in 16 bits, which the second-level
# cache of a large GPU keeps until both products have read them
BAND = 4096
# tensor cores want 16 in every axis of a product
MIN_BLOCK = 16

# architectures with rows of their own; those of its stand-in serve another, and one unheard of takes those that need
# the least shared memory
COMPLETE_ARCHS = (80, 86, 90)
STAND_INS = {89: 86, 100: 90, 120: 86}
SMALLEST_ARCH = 86


def power_of_two(length: int) -> int:
    """The smallest power of two that holds ``length``, at least ``MIN_BLOCK``."""
    return max(MIN_BLOCK, 1 << (max(length, 1) - 1).bit_length())


def ceil_div(length: int, block: int) -> int:
    """Blocks that cover ``length``."""
    return -(-length // block)


@lru_cache(maxsize=1024)
def choose_tile(kernel: str, arch: int, itemsize: int, rows: int, columns: int) -> Tile:
    """The tile of ``kernel`` for a result of this size, cut to axes that are shorter.

    Args:
        kernel: A kernel named in the table.
        arch: Compute capability without its point: 80, 86, 89, 90, 100, 120.
        itemsize: Bytes of one value: 2 or 4.
        rows, columns: Of the result.

    Raises:
        LookupError: The table has no row for this kernel and item size.
    """
    served = arch if arch in COMPLETE_ARCHS else STAND_INS.get(arch, SMALLEST_ARCH)
    for row in TABLE:
        if (row.kernel, row.arch, row.itemsize) == (kernel, served, itemsize):
            block_m, block_n = min(row.tile.block_m, power_of_two(rows)), min(row.tile.block_n, power_of_two(columns))
            return replace(row.tile, block_m=block_m, block_n=block_n)
    raise LookupError(f"contrastive_loss: no launch row for {kernel}, sm_{arch}, {itemsize} bytes")


@lru_cache(maxsize=1024)
def choose_parts(row_tiles: int, column_tiles: int) -> tuple[int, int]:
    """Into how many parts rows and columns are cut; a program sweeps one part of each.

    Every part of the columns costs a set of statistics for all rows, and the reverse, so there are about as many of
    both: memory grows with the rows, not with the tiles of rows.

    Returns:
        Tiles of a part, for rows and for columns, none of whose parts is empty.
    """
    rows = min(row_tiles, 16)
    columns = min(column_tiles, ceil_div(WANTED_PROGRAMS, rows))
    rows = min(row_tiles, ceil_div(WANTED_PROGRAMS, columns))
    return ceil_div(row_tiles, rows), ceil_div(column_tiles, columns)
