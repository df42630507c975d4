"""Regions that a user names for concepts, masks or boxes, as shares of the cells of any grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.methods._masks import check_mask_size, is_mask, read_mask

Region = Any  # a box (left, top, right, bottom) in pixels, or a mask: PIL image, array or tensor [h, w]
Regions = tuple[Tensor | tuple[float, float, float, float], ...]


def checked_regions(given: Any, phrases: Sequence[str]) -> Regions:
    """One region a concept, in their order: masks as fp32 [h, w] in [0, 1] on the CPU, boxes as they are.

    Raises:
        TypeError, ValueError: Not a mask or box for every concept.
    """
    if isinstance(given, Mapping):
        unknown = [phrase for phrase in given if phrase not in phrases]
        missing = [phrase for phrase in phrases if phrase not in given]
        if unknown or missing:
            raise ValueError(
                f"LocalizedResiduals: `localize` must have a region for each of {', '.join(map(repr, phrases))}; "
                f"got {', '.join(map(repr, given)) or 'none'}"
            )
        listed = [given[phrase] for phrase in phrases]
    elif len(phrases) == 1 and (_is_box(given) or is_mask(given)):
        listed = [given]
    elif isinstance(given, Sequence) and not isinstance(given, str):
        listed = list(given)
    else:
        raise TypeError(
            "LocalizedResiduals: `localize` must be 'attention', 'none', or a mask or box for each concept, listed or "
            f"by phrase; got {given!r}"
        )
    if len(listed) != len(phrases):
        raise ValueError(
            f"LocalizedResiduals: `localize` must have a region for each of {len(phrases)} concepts; got {len(listed)}"
        )
    return tuple(_checked(region, phrase) for region, phrase in zip(listed, phrases, strict=True))


def region_masks(regions: Regions, phrases: Sequence[str], image_size: tuple[int, int]) -> Tensor:
    """The regions as fp32 masks of the image's size, [K, h, w].

    Raises:
        ValueError: A mask of another size than the image, or a box outside it.
    """
    height, width = image_size
    masks = torch.zeros(len(regions), height, width)
    for mask, region, phrase in zip(masks, regions, phrases, strict=True):
        if isinstance(region, Tensor):
            check_mask_size(region, phrase, image_size, who="LocalizedResiduals")
            mask.copy_(region)
            continue
        left, top, right, bottom = region
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"LocalizedResiduals: the box of {phrase!r} must lie in the image, {width} x {height} pixels, as "
                f"(left, top, right, bottom); got {region}"
            )
        mask.copy_(_covered(top, bottom, height)[:, None] * _covered(left, right, width))
    return masks


def on_grid(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """How much of every cell of ``grid`` masks [K, h, w] cover, [cells, K]."""
    return F.adaptive_avg_pool2d(masks[None], grid)[0].flatten(1).T


def _covered(start: float, end: float, length: int) -> Tensor:
    """How much of each of ``length`` pixels lies between ``start`` and ``end``."""
    pixels = torch.arange(length, dtype=torch.float32)
    return (end - pixels).clamp(0, 1) - (start - pixels).clamp(0, 1)


def _is_box(region: Any) -> bool:
    return (
        isinstance(region, Sequence)
        and not isinstance(region, str)
        and len(region) == 4
        and all(isinstance(side, Real) and not isinstance(side, bool) for side in region)
    )


def _checked(region: Any, phrase: str) -> Tensor | tuple[float, float, float, float]:
    if _is_box(region):
        if not all(math.isfinite(side) for side in region):
            raise ValueError(f"LocalizedResiduals: the box of {phrase!r} must be finite; got {region}")
        left, top, right, bottom = (float(side) for side in region)
        return left, top, right, bottom
    if not is_mask(region):
        raise TypeError(
            f"LocalizedResiduals: the region of {phrase!r} must be a box (left, top, right, bottom) or a mask (PIL "
            f"image, array or tensor [h, w]); got {region!r}"
        )
    return read_mask(region, phrase, who="LocalizedResiduals")
