"""Tiles of the Triton kernels of ``lowrank_linear``, one row a kernel, architecture, item size and size of the result.

Rows are data. None was timed on a device yet: they were set by what compiles without spilling into the shared memory
of the architecture, and by how many programs a result of that size makes (132 multiprocessors want two each).
"""

from __future__ import annotations

from weft.kernels.common.product_tiles import Row, Tile

# 512 x 1280, 2048 x 640, and up to 8192 x 640: the layers of Stable Diffusion 1 and XL, which memory bounds. Of a
# result 640 wide, tiles of 256 would waste a sixth
SMALL, MEDIUM, LARGE = 700_000, 1_400_000, 5_300_000

TABLE: tuple[Row, ...] = (
    # rows times columns of the result: the base product, with or without concepts, in either form
    Row("project", 80, 2, Tile(64, 64, 64, 4, 3), SMALL),
    Row("project", 80, 2, Tile(64, 128, 32, 8, 4), MEDIUM),
    Row("project", 80, 2, Tile(128, 128, 32, 8, 4)),
    Row("project", 80, 4, Tile(64, 64, 16, 8, 2)),
    Row("project", 86, 2, Tile(64, 64, 32, 4, 3), SMALL),
    Row("project", 86, 2, Tile(64, 128, 32, 8, 3), MEDIUM),
    Row("project", 86, 2, Tile(128, 128, 32, 8, 3)),
    Row("project", 86, 4, Tile(64, 64, 16, 8, 2)),
    Row("project", 90, 2, Tile(64, 64, 64, 4, 4), SMALL),
    Row("project", 90, 2, Tile(64, 128, 64, 4, 4), MEDIUM),
    Row("project", 90, 2, Tile(128, 128, 64, 8, 4), LARGE),
    Row("project", 90, 2, Tile(128, 256, 64, 8, 3)),
    Row("project", 90, 4, Tile(64, 64, 16, 8, 2)),
    # rows times ranks: x A^T * G. Few programs, long sums
    Row("shrink", 80, 2, Tile(32, 64, 64, 4, 4)),
    Row("shrink", 80, 4, Tile(32, 32, 32, 4, 2)),
    Row("shrink", 86, 2, Tile(32, 64, 64, 4, 3)),
    Row("shrink", 86, 4, Tile(32, 32, 32, 4, 2)),
    Row("shrink", 90, 2, Tile(32, 64, 64, 4, 4)),
    Row("shrink", 90, 4, Tile(32, 32, 32, 4, 2)),
    # p times q: gradients of matrices, summed over rows
    Row("outer", 80, 2, Tile(64, 64, 32, 4, 4)),
    Row("outer", 80, 4, Tile(32, 64, 16, 4, 2)),
    Row("outer", 86, 2, Tile(64, 64, 32, 4, 3)),
    Row("outer", 86, 4, Tile(32, 64, 16, 4, 2)),
    Row("outer", 90, 2, Tile(64, 64, 64, 4, 3)),
    Row("outer", 90, 4, Tile(32, 64, 16, 4, 2)),
)
