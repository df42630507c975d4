"""Tiles of the Triton kernels of ``contrastive_loss``, one row a kernel, architecture and item size.

Rows are data. None was timed on a device yet: they were set by what compiles without spilling into the shared memory
of the architecture.
"""

from __future__ import annotations

from weft.kernels.common.product_tiles import Row, Tile

TABLE: tuple[Row, ...] = (
    # statistics of rows and columns: products over D, then exponentials of the tile. 128 x 128 would spill
    Row("fwd", 80, 2, Tile(64, 128, 32, 8, 4)),
    Row("fwd", 80, 4, Tile(64, 64, 16, 8, 2)),
    Row("fwd", 86, 2, Tile(64, 128, 32, 8, 3)),
    Row("fwd", 86, 4, Tile(64, 64, 16, 8, 2)),
    Row("fwd", 90, 2, Tile(64, 128, 64, 8, 4)),
    Row("fwd", 90, 4, Tile(64, 64, 16, 8, 2)),
    # the same products once more, and the gradient at each logit
    Row("bwd_pairs", 80, 2, Tile(128, 128, 32, 8, 4)),
    Row("bwd_pairs", 80, 4, Tile(64, 64, 16, 8, 2)),
    Row("bwd_pairs", 86, 2, Tile(128, 128, 32, 8, 3)),
    Row("bwd_pairs", 86, 4, Tile(64, 64, 16, 8, 2)),
    Row("bwd_pairs", 90, 2, Tile(128, 128, 64, 8, 4)),
    Row("bwd_pairs", 90, 4, Tile(64, 64, 16, 8, 2)),
    # gradients at logits times features: long sums
    Row("bwd_features", 80, 2, Tile(128, 128, 32, 8, 4)),
    Row("bwd_features", 80, 4, Tile(64, 64, 16, 8, 2)),
    Row("bwd_features", 86, 2, Tile(128, 128, 32, 8, 3)),
    Row("bwd_features", 86, 4, Tile(64, 64, 16, 8, 2)),
    Row("bwd_features", 90, 2, Tile(128, 128, 64, 8, 4)),
    Row("bwd_features", 90, 4, Tile(64, 64, 16, 8, 2)),
)
