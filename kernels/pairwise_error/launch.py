"""How the Triton kernels of ``pairwise_error`` are launched: plain arithmetic, neither torch nor triton.

They read everything once and compute next to nothing, so one shape of program serves every device. Not timed on one.
"""

from __future__ import annotations

from weft.kernels.common.grids import ceil_div

# values a program takes at a time, and the warps that hold them: 8 a thread
BLOCK = 1024
NUM_WARPS = 4
# eight programs for each of the 132 processors of an H100 keep enough loads in flight
WANTED_PROGRAMS = 1056


def choose_parts(pairs: int, values: int) -> tuple[int, int]:
    """Into how many parts the values of a pair are cut where pairs are few, and the blocks of each part."""
    blocks = ceil_div(values, BLOCK)
    each = ceil_div(blocks, max(1, min(blocks, ceil_div(WANTED_PROGRAMS, pairs))))
    return ceil_div(blocks, each), each


def choose_columns(rows: int, columns: int, values: int) -> int:
    """Columns that one program of the backward does in turn, where nothing is summed over them."""
    programs = rows * ceil_div(values, BLOCK)
    return ceil_div(columns, min(columns, ceil_div(WANTED_PROGRAMS, programs)))
