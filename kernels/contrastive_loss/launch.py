"""How the Triton kernels of ``contrastive_loss`` are launched: shapes and device in, records out.

Plain arithmetic, neither torch nor triton; the tiles themselves are rows of ``launch_table.TABLE``.
"""

from __future__ import annotations

from functools import lru_cache

from weft.kernels.common import grids
from weft.kernels.common.grids import ceil_div
from weft.kernels.common.product_tiles import Tile, find_tile

from .launch_table import TABLE

# backward holds the gradients at so many rows times so many columns at once: 32 MiB in 16 bits, which the second-level
# cache of a large GPU keeps until both products have read them
BAND = 4096


@lru_cache(maxsize=1024)
def choose_tile(kernel: str, arch: int, itemsize: int, rows: int, columns: int) -> Tile:
    """The tile of ``kernel`` for a result of this size: ``find_tile`` in this op's table."""
    return find_tile("contrastive_loss", TABLE, kernel, arch, itemsize, rows, columns)


@lru_cache(maxsize=1024)
def choose_parts(row_tiles: int, column_tiles: int) -> tuple[int, int]:
    """Into how many parts rows and columns are cut; a program sweeps one part of each.

    Every part of the columns costs a set of statistics for all rows, and the reverse, so there are about as many of
    both: memory grows with the rows, not with the tiles of rows.

    Returns:
        Tiles of a part, for rows and for columns, none of whose parts is empty.
    """
    rows = min(row_tiles, 16)
    columns = min(column_tiles, ceil_div(grids.MIN_PROGRAMS, rows))
    rows = min(row_tiles, ceil_div(grids.MIN_PROGRAMS, columns))
    return ceil_div(row_tiles, rows), ceil_div(column_tiles, columns)
