"""Launch tables of kernels that multiply matrices: what a row is, and which one serves a result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from weft.kernels.common.grids import power_of_two, stand_in

# of a row that serves results of any size
ANY_SIZE = 2**62


@dataclass(frozen=True)
class Tile:
    """Shape of one program's work, and what runs it.

    Attributes:
        block_m, block_n: Rows and columns of one tile of the result; powers of two.
        block_k: How much of the axis that is summed over is loaded at a time; likewise.
        num_warps: Warps a program.
        num_stages: Depth of the load pipeline; 1 for none.
    """

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int

    @property
    def options(self) -> dict[str, int | bool]:
        """How a kernel with this tile is compiled."""
        # fusion is pinned, since its default differs between versions of Triton
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": False}


@dataclass(frozen=True)
class Row:
    """The tile of ``kernel`` on ``arch`` for values of ``itemsize`` bytes and results of up to ``max_size`` values."""

    kernel: str
    arch: int
    itemsize: int
    tile: Tile
    max_size: int = ANY_SIZE


def find_tile(op: str, table: Iterable[Row], kernel: str, arch: int, itemsize: int, rows: int, columns: int) -> Tile:
    """The tile of ``kernel`` for a result of this size, cut to axes that are shorter.

    Args:
        op, table: The name of an op and its rows.
        kernel: A kernel named in the table.
        arch: Compute capability without its point: 80, 86, 89, 90, 100, 120.
        itemsize: Bytes of one value: 2 or 4.
        rows, columns: Of the result.

    Raises:
        LookupError: The table has no row for this kernel and item size.
    """
    served = (kernel, stand_in(arch), itemsize)
    fits = [row for row in table if (row.kernel, row.arch, row.itemsize) == served and rows * columns <= row.max_size]
    if not fits:
        raise LookupError(f"{op}: no launch row for {kernel}, sm_{arch}, {itemsize} bytes")
    tile = min(fits, key=lambda row: row.max_size).tile
    return replace(
        tile,
        block_m=min(tile.block_m, power_of_two(rows)),
        block_n=min(tile.block_n, power_of_two(columns)),
    )
