"""The arguments of ``best_windows`` as one record, which the definition and every backend take."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

Size = tuple[int, int]


class Search(NamedTuple):
    """A search for windows, checked: the arguments of ``best_windows``.

    Attributes:
        maps: A, [B, n, h, w], any float dtype, finite.
        sizes: (height, width) of the windows, in cells.
        margin: Rows at the bottom and columns at the right that no window may reach.
        protected: Cells each object protects.
        protect_factor: What a protected cell is worth to the others.
        exclusion: What a cell that is taken is worth from then on, or None to forbid overlap.
        gap: Cells that stay free between two windows, where overlap is forbidden.
        fallback: (height, width) of the window of an object without a positive mean; (0, 0) for none.
        present: bool [B, n]; the others get an empty window, protect nothing and take nothing. None for all.
    """

    maps: Tensor
    sizes: tuple[Size, ...]
    margin: int
    protected: int
    protect_factor: float
    exclusion: float | None
    gap: int
    fallback: Size
    present: Tensor | None
