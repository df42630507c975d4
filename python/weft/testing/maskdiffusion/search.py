"""Steps (f) and (g): the region of each object, by nested loops over objects, pixels and windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Rectangle = tuple[int, int, int, int]  # top, left, height, width

GRID = (16, 16)
# (height, width) of the windows on that grid, in their order: about a fifth of it
SIZES = ((4, 12), (12, 4), (5, 10), (10, 5), (6, 8), (8, 6))
PROTECTED = 0.15  # share of the grid where an object silences other tokens, ...
SILENCED = 0.5  # ... by this factor
EXCLUSION = -2.0  # factor of every map inside a region that was given away


@dataclass(frozen=True)
class Found:
    """The region of one object.

    Attributes:
        rectangle: (top, left, height, width); no area where no region was found and none is made up.
        mean: Mean of the map in the best window; 0 without one.
        gap: By how much the best window's mean exceeds the second best's, relative to it; 0 without a best one.
            Another order of summation can change the choice only where this is near the rounding step.
    """

    rectangle: Rectangle
    mean: float
    gap: float


def protect(maps: Tensor, objects: Sequence[tuple[int, Sequence[int]]], grid: tuple[int, int]) -> Tensor:
    """Halve the maps of other tokens where an object's own map is largest, one object after the other.

    Args:
        maps: [tokens, h * w].
        objects: (head token, all its tokens) of each, in order.
        grid: (h, w).

    Returns:
        A changed copy of ``maps``.
    """
    maps = maps.clone()
    count = math.floor(PROTECTED * grid[0] * grid[1])
    for head, own in objects:
        pixels = maps[head].topk(count).indices
        for token in range(maps.shape[0]):
            if token not in own:
                maps[token, pixels] = maps[token, pixels] * SILENCED
    return maps


def search(
    maps: Tensor,
    heads: Sequence[int],
    grid: tuple[int, int],
    sizes: Sequence[tuple[int, int]] = SIZES,
    *,
    margin: int = 2,
    exclusion: str = "multiply",
    fallback: str = "corner",
) -> list[Found]:
    """Give each object the window with the largest mean of its map, one object after the other.

    Args:
        maps: [tokens, h * w], protected already.
        heads: The token whose map is searched, per object.
        grid: (h, w).
        sizes: (height, width) of the windows.
        margin: Rows at the bottom and columns at the right that no window may touch.
        exclusion: What becomes of a region that was given away: "multiply" every map there by -2, or "forbid" it.
        fallback: Where no window's mean is positive: the first size at the "corner", or "none".
    """
    h, w = grid
    maps = maps.clone().view(-1, h, w)
    found = []
    for head in heads:
        best, second, where = 0.0, 0.0, None
        for top in range(h):
            for left in range(w):
                for height, width in sizes:
                    if top + height > h - margin or left + width > w - margin:
                        continue
                    mean = maps[head, top : top + height, left : left + width].mean().item()
                    if mean > best:  # a tie keeps the earlier window
                        best, second, where = mean, best, (top, left, height, width)
                    elif mean > second:
                        second = mean
        gap = (best - second) / best if best else 0.0
        if where is None:
            where = (0, 0, *sizes[0]) if fallback == "corner" else (0, 0, 0, 0)
        found.append(Found(where, best, gap))
        top, left, height, width = where
        inside = maps[:, top : top + height, left : left + width]
        inside.copy_(inside * EXCLUSION if exclusion == "multiply" else torch.full_like(inside, -torch.inf))
    return found
