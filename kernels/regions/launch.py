"""How the Triton kernel of ``regions`` is launched: plain arithmetic, neither torch nor triton."""

from __future__ import annotations

from dataclasses import dataclass

from weft.kernels.common.grids import power_of_two

# the objects that protect or cover a cell are the bits of one int32
MAX_OBJECTS = 31
# cells of the padded grid that one program keeps in registers: 64 x 64
MAX_CELLS = 4096
# candidates that are compared at a time
BLOCK_CANDIDATES = 1024


@dataclass(frozen=True)
class SearchLaunch:
    """One program holds a whole grid, each side padded to a power of two; ``block_p`` candidates at a time."""

    block_h: int
    block_w: int
    block_p: int
    num_warps: int


def choose_search_launch(height: int, width: int, candidates: int) -> SearchLaunch:
    """The launch for a grid of ``height`` x ``width`` cells and so many windows."""
    block_h, block_w, block_p = (power_of_two(length, 1) for length in (height, width, candidates))
    # 16 values a thread, each 8 bytes, leave registers for the intermediate values
    return SearchLaunch(block_h, block_w, min(block_p, BLOCK_CANDIDATES), min(max(block_h * block_w // 512, 4), 8))


def padded_cells(height: int, width: int) -> int:
    """Cells of the grid that a program would hold."""
    launch = choose_search_launch(height, width, 1)
    return launch.block_h * launch.block_w


# cells of a map that one program keeps in registers: 128 x 128, 16 a thread
MAX_GATE_CELLS = 16384
MAX_GATE_CONCEPTS = 64


@dataclass(frozen=True)
class GateLaunch:
    """One program a map holds all its cells, padded to a power of two; where maps compete, one a tile of all maps."""

    block_map: int
    map_warps: int
    block_n: int
    block_k: int
    overlap_warps: int


def choose_gate_launch(cells: int, concepts: int) -> GateLaunch:
    """The launches for so many maps of so many cells."""
    # never less than a warp holds
    block_map = power_of_two(cells, 64)
    block_k = power_of_two(concepts, 1)
    # 8 values a thread, among them all concepts of a cell
    return GateLaunch(block_map, min(max(block_map // 512, 1), 32), 1024 // block_k, block_k, 4)
