"""What a row of the launch table is tuned for."""

from __future__ import annotations

from dataclasses import dataclass

from . import launch
from .launch_table import ANY_SEQLEN, Row, Tile


@dataclass(frozen=True)
class Target:
    """What one row serves: a kernel on a device, a width of values, a head width, and few keys or any number.

    Attributes:
        kernel: A kernel named in the table.
        arch: Compute capability without its point.
        itemsize: Bytes of one value of q, k and v: 2 or 4.
        head_dim: D.
        short_keys: Whether the row is for rows of logits that fit one tile.
    """

    kernel: str
    arch: int
    itemsize: int
    head_dim: int
    short_keys: bool

    def row(self, tile: Tile) -> Row:
        """The forward kernels differ by their number of keys already; the others' rows for few keys say so."""
        limited = self.short_keys and self.kernel != "fwd_short"
        seqlen_k = launch.MOST_SHORT_KEYS if limited else ANY_SEQLEN
        return Row(self.kernel, self.arch, self.itemsize, self.head_dim, tile, seqlen_k)
