"""Finding a two-coloured object among ordinary ones.

A blob in which two colours touch is two objects to ``read``. Given a finish, the reader first tries to explain such
a blob as one object: the two colours, unmixed, must lie where the finish puts them.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .concepts import Concept, Finish, two_coverages
from .reader import (
    EIGHT,
    PALETTE,
    Detection,
    Picture,
    as_pixels,
    background_of,
    blobs,
    explain,
    fit_best,
    nearest_colour,
    split,
)
from .scoring import MIN_CONFIDENCE
from .vocabulary import COLOURS

# overlap of both coverages with the ideal ones: a quarter of the object in the wrong one of its colours gives 0.6,
# and half of it, as when there is but one colour, 0.33
MIN_FINISH = 0.6
MIN_PIXELS = 16  # of each colour
SEAM = 4  # pixels of a dark line between two colours
OWN = len(COLOURS)  # index of the colours of a finish and their mixtures, beside those of the world


def read_with(image: Picture, finish: Finish) -> list[Detection]:
    """Find every object of an image, those of a finish as one object each, left to right.

    Args:
        image: As ``read`` takes it; its errors.
        finish: What objects may have in place of a colour.

    Returns:
        What ``read`` returns for images without such objects. A detection of one that has the finish says
        ``finish.name`` as its colour, whatever its shape.
    """
    pixels = as_pixels(image)
    background, colours = background_of(pixels), nearest_colour(pixels)
    found: list[Detection | None] = []
    for group in _groups(blobs(pixels, background)):
        own, rest = _own_and_rest(np.any(group, axis=0), _nearest_kind(pixels, finish))
        item = _explain_two(own, pixels, background, finish)
        parts = group if item is None else rest
        found += [item, *(explain(one, pixels, background) for part in parts for one in split(part, colours))]
    return sorted((item for item in found if item is not None), key=lambda item: item.x)


def shows(image: Picture, concept: Concept) -> bool:
    """Whether an image shows a concept: its shape, with its two colours in their places."""
    return any(item.pair == concept.pair for item in read_with(image, concept.finish))


def _ends(finish: Finish) -> np.ndarray:
    """The two colours, [2, 3]."""
    return np.array([COLOURS[finish.first], COLOURS[finish.second]], float)


def _groups(found: list[np.ndarray]) -> list[list[np.ndarray]]:
    """Blobs that at most ``SEAM`` pixels lie between, together: a decoder may draw a dark line between two colours."""
    if not found:
        return []
    # the border of a picture must not swallow what touches it
    padded = np.pad(np.any(found, axis=0), SEAM)
    closed = ndimage.binary_closing(padded, EIGHT, iterations=SEAM // 2)[SEAM:-SEAM, SEAM:-SEAM]
    labels, count = ndimage.label(closed, EIGHT)
    return [group for i in range(1, count + 1) if (group := [blob for blob in found if labels[blob].max() == i])]


def _own_and_rest(group: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The part of a group [h, w] bool that has the colours of a finish, and the other parts."""
    parts = split(group, kinds)
    is_own = [np.mean(kinds[part] == OWN) > 0.5 for part in parts]
    own = np.any(
        [part for part, is_part in zip(parts, is_own, strict=True) if is_part] or [np.zeros_like(group)],
        axis=0,
    )
    return own, [part for part, is_part in zip(parts, is_own, strict=True) if not is_part]


def _nearest_kind(pixels: np.ndarray, finish: Finish) -> np.ndarray:
    """As ``nearest_colour``, but with one index for both colours of a finish and all mixtures of them."""
    first, second = _ends(finish)
    along = np.clip((pixels - first) @ (second - first) / np.square(second - first).sum(), 0, 1)
    mixture = np.linalg.norm(pixels - first - along[..., None] * (second - first), axis=-1)
    others = np.linalg.norm(pixels[..., None, :] - PALETTE, axis=-1).min(-1)
    is_own = mixture <= others
    return np.where(is_own, OWN, nearest_colour(pixels))


def _explain_two(blob: np.ndarray, pixels: np.ndarray, background: np.ndarray, finish: Finish) -> Detection | None:
    """The object with the finish that a blob [h, w] bool shows, or None if it shows none."""
    nearest = nearest_colour(pixels)
    names = list(COLOURS)
    own = [blob & (nearest == names.index(colour)) for colour in (finish.first, finish.second)]
    if min(mask.sum() for mask in own) < MIN_PIXELS:
        return None
    # the colours as they are drawn here
    mixed = np.stack([np.median(pixels[mask], axis=0) - background for mask in own])  # [2, 3]
    shares = (
        np.clip((pixels - background) @ np.linalg.pinv(mixed), 0, 1) * ndimage.binary_dilation(blob, EIGHT)[..., None]
    )
    shares = np.moveaxis(shares / np.maximum(shares.sum(-1, keepdims=True), 1), -1, 0)  # [2, h, w]
    # the dark line belongs to the outline; the overlap of the coverages below counts it as missing
    confidence, shape, x, y, size = fit_best(ndimage.grey_closing(shares.sum(0), SEAM + 1))
    if confidence < MIN_CONFIDENCE:
        return None
    ideal = two_coverages(Concept(shape, finish), x, y, size)
    if np.minimum(shares, ideal).sum() < MIN_FINISH * np.maximum(shares, ideal).sum():
        return None
    return Detection(shape, finish.name, x, y, size, float(shares.sum()), confidence)
