"""Sides of feature maps, from the smallest map to the picture."""

from __future__ import annotations

import math

SMALLEST = 4  # pixels of the least side that a feature map has


def doublings(resolution: int) -> int:
    """Steps by a factor of two between the smallest map and the picture."""
    return int(math.log2(resolution // SMALLEST))


def smallest_side(resolution: int) -> int:
    """Of the first feature map of a generator and the last of a discriminator, 4 to 7 pixels."""
    return resolution >> doublings(resolution)


def is_reached(resolution: int) -> bool:
    """Whether doubling a smallest map gives pictures of this size."""
    return resolution >= SMALLEST and smallest_side(resolution) << doublings(resolution) == resolution
