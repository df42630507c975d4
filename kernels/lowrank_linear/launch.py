"""How the Triton kernels of ``lowrank_linear`` are launched: shapes and device in, records out.

Plain arithmetic, neither torch nor triton; the tiles themselves are rows of ``launch_table.TABLE``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from weft.kernels.common import grids
from weft.kernels.common.grids import power_of_two, stand_in
from weft.kernels.common.product_tiles import Tile, find_tile

from .launch_table import TABLE

# ranks that a program can hold beside its tile of the result: 64 x 128 fp32 values are 32 registers a thread
MOST_RECOMPUTED_RANKS = 64
# consecutive programs share this many rows of tiles, so that they meet the same part of W in L2
GROUP = 8


@dataclass(frozen=True)
class Rates:
    """What a device does at best, from its data sheet less a tenth or so: an estimate, not a measurement.

    Attributes:
        gb_s: Gigabytes a second from memory.
        tflop_s: By item size, tera floating-point operations a second of a product.
        launch_us: Microseconds that one more kernel costs where launches are queued ahead or captured in a graph.
    """

    gb_s: float
    tflop_s: dict[int, float]
    launch_us: float = 2.5


RATES = {
    80: Rates(1400, {2: 250, 4: 17}),
    86: Rates(800, {2: 120, 4: 30}),
    90: Rates(3000, {2: 650, 4: 50}),
}


@lru_cache(maxsize=1024)
def choose_tile(kernel: str, arch: int, itemsize: int, rows: int, columns: int) -> Tile:
    """The tile of ``kernel`` for a result of this size: ``find_tile`` in this op's table.

    Of the base product nothing else is asked, neither ranks nor form: a closed gate then gives the bits of the layer
    alone, since both sum in the same order.
    """
    return find_tile("lowrank_linear", TABLE, kernel, arch, itemsize, rows, columns)


def choose_form(arch: int, itemsize: int, rows: int, width_in: int, width_out: int, ranks: int, block_n: int) -> str:
    """Which of the two forms adds the concepts.

    Recomputing x A^T for every tile of the result costs ranks / block_n more products, which are free as long as
    memory is what bounds the layer; making it once costs a launch and another reading of x.

    Args:
        rows, width_in, width_out, ranks: Sizes of the call: B * N, Cin, Cout, R.
        block_n: Columns of one tile of the result.

    Returns:
        "recompute" or "append".
    """
    padded = power_of_two(ranks)
    if padded > MOST_RECOMPUTED_RANKS:
        return "append"
    rates = RATES[stand_in(arch)]
    values = rows * width_in + width_in * width_out + rows * width_out
    memory_us = values * itemsize / (rates.gb_s * 1e3)
    products_us = 2 * rows * width_in * width_out / (rates.tflop_s[itemsize] * 1e6)
    # h by W's width of a tile, then B: the second is the same in both forms
    recomputing_us = max(memory_us, products_us * (1 + padded / block_n)) - max(memory_us, products_us)
    appending_us = rates.launch_us + rows * (width_in + 2 * ranks) * itemsize / (rates.gb_s * 1e3)
    return "recompute" if recomputing_us <= appending_us else "append"


def choose_tiles_per_program(row_tiles: int, column_tiles: int) -> int:
    """Tiles of columns that one program does in turn where there is no base product: it makes x A^T once for them."""
    return max(1, min(column_tiles, row_tiles * column_tiles // grids.MIN_PROGRAMS))
