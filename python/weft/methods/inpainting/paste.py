"""Putting what was painted back into the picture, so that the picture outside the hole keeps its bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from weft.methods.inpainting.pictures import Hole, Pixels

Blend = Literal["feather", "laplacian", "poisson", "hard"]
Weights = NDArray[np.float32]  # [h, w], 0 to 1

_POISSON_PAD = 8  # pixels round the picture, so that no hole reaches the border
SMALLEST_LEVEL = 8  # pixels of the shorter side at the top of a Laplacian pyramid


def paste(picture: Pixels, painted: Pixels, hole: Hole, blend: Blend, feather: int) -> Pixels:
    """``painted`` inside ``hole``, ``picture`` outside of it, without a seam between them.

    A pixel that is more than ``feather`` pixels away from the hole has exactly the value of ``picture``.

    Args:
        picture: [h, w, 3].
        painted: Of the same size.
        hole: [h, w].
        blend: "feather" fades one into the other in a rim round the hole. "laplacian" fades coarse structure over a
            wider stretch than fine, "poisson" keeps the gradients of what was painted and takes its colours from
            the rim; both go through "feather" after that. "hard" has no rim.
        feather: Pixels of the rim; 0 is "hard".

    Returns:
        [h, w, 3].

    Source:
        Burt and Adelson 1983, doi:10.1145/245.247 (laplacian); Perez et al. 2003, doi:10.1145/882262.882269
        (poisson).
    """
    weights = feathered(hole, 0 if blend == "hard" else feather)
    blended = BLENDS[blend](picture, painted, hole)
    mixed = weights[..., None] * blended + (1 - weights[..., None]) * picture.astype(np.float32)
    # weights of 0 and 1 give back their side exactly; rounding is of the rim alone
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def feathered(hole: Hole, feather: int) -> Weights:
    """1 in the hole, falling smoothly to exactly 0 in the pixels that are more than ``feather`` away from it."""
    if feather == 0:
        return hole.astype(np.float32)
    distance = cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ramp = np.clip(1 - distance / (feather + 1), 0, 1)
    ramp[distance > feather] = 0
    smooth: Weights = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
    return smooth


def _float(plane: object) -> NDArray[np.float32]:
    return np.asarray(plane, np.float32)


def _as_painted(picture: Pixels, painted: Pixels, hole: Hole) -> NDArray[np.float32]:
    return _float(painted)


def _laplacian(picture: Pixels, painted: Pixels, hole: Hole) -> NDArray[np.float32]:
    """Each octave of both pictures mixed by the hole as it looks at that octave."""
    levels = max(int(np.log2(min(hole.shape) / SMALLEST_LEVEL)), 0)
    inside, outside, share = _float(painted), _float(picture), _float(hole)[..., None]
    details: list[NDArray[np.float32]] = []
    for _ in range(levels):
        size = inside.shape[1::-1]
        within, without = _float(cv2.pyrDown(inside)), _float(cv2.pyrDown(outside))
        fine = inside - cv2.pyrUp(within, dstsize=size), outside - cv2.pyrUp(without, dstsize=size)
        details.append(share * fine[0] + (1 - share) * fine[1])
        inside, outside, share = within, without, _float(cv2.pyrDown(share))[..., None]
    mixed = share * inside + (1 - share) * outside
    for detail in reversed(details):
        mixed = _float(cv2.pyrUp(mixed, dstsize=detail.shape[1::-1])) + detail
    return mixed


def _poisson(picture: Pixels, painted: Pixels, hole: Hole) -> NDArray[np.float32]:
    """The gradients of what was painted, with the picture's colours along the rim of the hole."""
    # where the hole reaches the border of the picture there is no rim: the painted pixels replace it
    around = np.where(hole[..., None], painted, picture)
    pads = ((_POISSON_PAD, _POISSON_PAD), (_POISSON_PAD, _POISSON_PAD), (0, 0))
    around, inside = (np.pad(plane, pads, mode="edge") for plane in (around, painted))
    # OpenCV wears three pixels of the mask's edge away; the step from one picture to the other must stay within
    mask = cv2.dilate(np.pad(hole.astype(np.uint8) * 255, _POISSON_PAD), np.ones((9, 9), np.uint8))
    left, top, width, height = cv2.boundingRect(mask)
    centre = (left + width // 2, top + height // 2)
    cloned = cv2.seamlessClone(inside, around, mask, centre, cv2.NORMAL_CLONE)
    within = slice(_POISSON_PAD, -_POISSON_PAD)
    return _float(cloned[within, within])


BLENDS: Mapping[Blend, Callable[[Pixels, Pixels, Hole], NDArray[np.float32]]] = {
    "feather": _as_painted,
    "laplacian": _laplacian,
    "poisson": _poisson,
    "hard": _as_painted,
}
