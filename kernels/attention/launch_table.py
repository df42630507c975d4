"""Tiles of the Triton kernels of ``attention``, one row a kernel, architecture, item size and head width.

Rows are data: ``weft bench --tune`` writes those of the device it runs on, with a comment that says which and when.
A row without one was set by what compiles without spilling into the shared memory of the architecture, untimed.
"""

from __future__ import annotations

from dataclasses import dataclass

# of a row that serves any number of keys
ANY_SEQLEN = 2**31 - 1


@dataclass(frozen=True)
class Tile:
    """Shape of one program's work, and what runs it.

    Attributes:
        block_q, block_k: Queries and keys of one tile; powers of two.
        num_warps: Warps a program.
        num_stages: Depth of the load pipeline; 1 for none.
        most_tiles: Query tiles a program may do in turn (whole-row forward only).
    """

    block_q: int
    block_k: int
    num_warps: int
    num_stages: int
    most_tiles: int = 1


@dataclass(frozen=True)
class Row:
    """The tile of ``kernel`` on ``arch`` for values of ``itemsize`` bytes, D and Nk up to the limits given."""

    kernel: str
    arch: int
    itemsize: int
    max_head_dim: int
    tile: Tile
    max_seqlen_k: int = ANY_SEQLEN


TABLE: tuple[Row, ...] = (
    # whole rows in one tile
    Row("fwd_short", 80, 2, 128, Tile(64, 128, 8, 1)),
    Row("fwd_short", 80, 2, 256, Tile(64, 128, 8, 1)),
    Row("fwd_short", 80, 4, 64, Tile(32, 128, 8, 1)),
    Row("fwd_short", 80, 4, 256, Tile(16, 128, 8, 1)),
    Row("fwd_short", 86, 2, 128, Tile(64, 128, 8, 1)),
    Row("fwd_short", 86, 2, 256, Tile(32, 128, 8, 1)),
    Row("fwd_short", 86, 4, 64, Tile(16, 128, 8, 1)),
    Row("fwd_short", 86, 4, 256, Tile(16, 128, 8, 1)),
    Row("fwd_short", 90, 2, 128, Tile(64, 128, 8, 1)),
    Row("fwd_short", 90, 2, 256, Tile(64, 128, 8, 1)),
    Row("fwd_short", 90, 4, 64, Tile(16, 128, 8, 1)),
    Row("fwd_short", 90, 4, 256, Tile(16, 128, 8, 1)),
    # online softmax
    Row("fwd_long", 80, 2, 64, Tile(128, 64, 8, 3)),
    Row("fwd_long", 80, 2, 128, Tile(128, 32, 8, 3)),
    Row("fwd_long", 80, 2, 256, Tile(64, 16, 8, 2)),
    Row("fwd_long", 80, 4, 64, Tile(32, 32, 4, 1)),
    Row("fwd_long", 80, 4, 256, Tile(16, 32, 8, 1)),
    Row("fwd_long", 86, 2, 64, Tile(128, 64, 8, 2)),
    Row("fwd_long", 86, 2, 128, Tile(128, 32, 8, 2)),
    Row("fwd_long", 86, 2, 256, Tile(64, 16, 8, 2)),
    Row("fwd_long", 86, 4, 64, Tile(32, 32, 4, 1)),
    Row("fwd_long", 86, 4, 256, Tile(16, 32, 8, 1)),
    Row("fwd_long", 90, 2, 64, Tile(128, 64, 8, 3)),
    Row("fwd_long", 90, 2, 128, Tile(128, 64, 8, 2)),
    Row("fwd_long", 90, 2, 256, Tile(64, 32, 8, 2)),
    Row("fwd_long", 90, 4, 64, Tile(32, 32, 4, 1)),
    Row("fwd_long", 90, 4, 256, Tile(16, 32, 8, 1)),
    # gradient of the queries, and of the tables: one query tile, a loop over keys
    Row("bwd_q", 80, 2, 64, Tile(64, 32, 8, 2)),
    Row("bwd_q", 80, 2, 128, Tile(64, 64, 8, 2)),
    Row("bwd_q", 80, 2, 256, Tile(16, 32, 4, 1)),
    Row("bwd_q", 80, 4, 64, Tile(32, 32, 8, 1)),
    Row("bwd_q", 80, 4, 256, Tile(16, 32, 4, 1)),
    Row("bwd_q", 86, 2, 64, Tile(64, 32, 8, 2)),
    Row("bwd_q", 86, 2, 128, Tile(64, 32, 8, 1)),
    Row("bwd_q", 86, 2, 256, Tile(16, 32, 4, 1)),
    Row("bwd_q", 86, 4, 64, Tile(32, 32, 8, 1)),
    Row("bwd_q", 86, 4, 256, Tile(16, 16, 4, 1)),
    Row("bwd_q", 90, 2, 64, Tile(64, 64, 8, 2)),
    Row("bwd_q", 90, 2, 128, Tile(64, 64, 8, 2)),
    Row("bwd_q", 90, 2, 256, Tile(16, 32, 4, 1)),
    Row("bwd_q", 90, 4, 64, Tile(32, 32, 8, 1)),
    Row("bwd_q", 90, 4, 256, Tile(16, 32, 4, 1)),
    # gradients of keys, values and read-out: one key tile, a loop over queries
    Row("bwd_kv", 80, 2, 64, Tile(32, 32, 4, 1)),
    Row("bwd_kv", 80, 2, 128, Tile(32, 64, 8, 1)),
    Row("bwd_kv", 80, 2, 160, Tile(16, 16, 4, 1)),
    Row("bwd_kv", 80, 2, 256, Tile(16, 32, 8, 1)),
    Row("bwd_kv", 80, 4, 64, Tile(32, 32, 4, 1)),
    Row("bwd_kv", 80, 4, 256, Tile(16, 16, 4, 1)),
    Row("bwd_kv", 86, 2, 64, Tile(32, 32, 4, 1)),
    Row("bwd_kv", 86, 2, 128, Tile(32, 64, 8, 1)),
    Row("bwd_kv", 86, 2, 160, Tile(16, 16, 4, 1)),
    Row("bwd_kv", 86, 2, 256, Tile(16, 32, 8, 1)),
    Row("bwd_kv", 86, 4, 64, Tile(32, 32, 4, 1)),
    Row("bwd_kv", 86, 4, 256, Tile(16, 16, 4, 1)),
    Row("bwd_kv", 90, 2, 64, Tile(32, 64, 8, 1)),
    Row("bwd_kv", 90, 2, 128, Tile(32, 64, 8, 2)),
    Row("bwd_kv", 90, 2, 160, Tile(16, 16, 4, 1)),
    Row("bwd_kv", 90, 2, 256, Tile(16, 32, 8, 1)),
    Row("bwd_kv", 90, 4, 64, Tile(32, 32, 4, 1)),
    Row("bwd_kv", 90, 4, 256, Tile(16, 16, 4, 1)),
    # gradient of the tables: one block of label pairs, a loop over both
    Row("bwd_tables", 80, 2, 64, Tile(32, 32, 4, 1)),
    Row("bwd_tables", 80, 2, 256, Tile(16, 16, 4, 1)),
    Row("bwd_tables", 80, 4, 64, Tile(32, 32, 4, 1)),
    Row("bwd_tables", 80, 4, 256, Tile(16, 16, 4, 1)),
    Row("bwd_tables", 86, 2, 64, Tile(32, 32, 4, 1)),
    Row("bwd_tables", 86, 2, 256, Tile(16, 16, 4, 1)),
    Row("bwd_tables", 86, 4, 64, Tile(32, 32, 4, 1)),
    Row("bwd_tables", 86, 4, 256, Tile(16, 16, 4, 1)),
    Row("bwd_tables", 90, 2, 64, Tile(32, 32, 4, 1)),
    Row("bwd_tables", 90, 2, 256, Tile(16, 16, 4, 1)),
    Row("bwd_tables", 90, 4, 64, Tile(32, 32, 4, 1)),
    Row("bwd_tables", 90, 4, 256, Tile(16, 16, 4, 1)),
)
