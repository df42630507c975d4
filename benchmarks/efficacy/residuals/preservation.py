"""What an adapter leaves as it was: two pictures from the same noise, without it and with it, compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from weft.shapes.concept_reader import read_with
from weft.shapes.concepts import Concept
from weft.shapes.reader import Detection, as_pixels, background_of
from weft.shapes.rendering import coverage
from weft.shapes.scoring import MIN_CONFIDENCE

SAME_GROUND = 10.0  # Euclidean sRGB levels between two background colours that look the same
SAME_PLACE = 4.0  # pixels between the centres of an object that has not moved
EDGE = 3  # pixels around an object that the autoencoder blurs


@dataclass(frozen=True)
class Seen:
    """A picture, [h, w, 3] in levels from 0 to 255, and what the reader finds in it."""

    pixels: np.ndarray
    found: list[Detection]

    @classmethod
    def of(cls, image: np.ndarray, concept: Concept) -> Seen:
        """Read a picture in which the concept may be."""
        return cls(as_pixels(image), read_with(image, concept.finish))


@dataclass(frozen=True)
class Preserved:
    """How far all but the concept stayed as the model draws it by itself.

    Attributes:
        ground: The background has the same colour.
        others: Every other object is still there, with its colour and shape, where it was; None if there was none.
        change: Mean absolute difference in levels, 0 to 255, outside the object of the concept and of its class.
    """

    ground: bool
    others: bool | None
    change: float


def preserved(plain: Seen, other: Seen, concept: Concept) -> Preserved:
    """Compare a picture that was drawn with an adapter to the plain one."""
    own = {concept.pair, concept.nearest}
    apart = np.linalg.norm(background_of(plain.pixels) - background_of(other.pixels))
    outside = ~_area([item for item in (*plain.found, *other.found) if item.pair in own])
    strangers = [item for item in plain.found if item.pair not in own and item.confidence >= MIN_CONFIDENCE]
    return Preserved(
        ground=bool(apart <= SAME_GROUND),
        others=all(_is_among(item, other.found) for item in strangers) if strangers else None,
        change=float(np.abs(plain.pixels - other.pixels).mean(-1)[outside].mean()),
    )


def _area(items: list[Detection]) -> np.ndarray:
    """The pixels of objects and of their blurred edges, [h, w] bool."""
    masks = [coverage(item.shape, item.x, item.y, item.size) > 0 for item in items]
    covered = np.any(masks, axis=0) if masks else np.zeros_like(coverage("circle", 0, 0, 1), bool)
    return ndimage.binary_dilation(covered, iterations=EDGE) if masks else covered


def _is_among(item: Detection, found: list[Detection]) -> bool:
    return any(
        other.pair == item.pair
        and other.confidence >= MIN_CONFIDENCE
        and np.hypot(other.x - item.x, other.y - item.y) <= SAME_PLACE
        for other in found
    )
