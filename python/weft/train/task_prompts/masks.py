"""Where holes are torn for training, task by task. Every recipe is a function of numbers drawn from a generator.

Sizes in pixels are those of pictures 512 pixels wide, and scale with the picture.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Hole = NDArray[np.bool_]  # [h, w]

_PUBLISHED_SIZE = 512
BOX_MARGIN = 2  # pixels round the box of an object
KERNELS = (3, 23)  # sides of the kernel that an object grows by, odd
GROWTHS = (0, 9)  # how often it grows
OUTPAINT_DEPTH = 0.5  # largest share of the picture that a side loses
STROKES, CORNERS = (1, 4), (2, 6)  # of random strokes
WIDTHS, LENGTHS = (0.06, 0.3), (0.05, 0.35)  # of them, as shares of the side
BOXES, SIDES = (0, 2), (0.1, 0.5)  # random boxes, their sides as shares
WARP = 0.15  # of a box, as a share of the root of its area


def everything(size: int) -> Hole:
    """All of the picture, as for a picture from text alone."""
    return np.ones((size, size), bool)


def strokes(size: int, rng: np.random.Generator) -> Hole:
    """Random strokes and boxes; never everything, never nothing.

    Source:
        Suvorov et al. 2021, arXiv:2109.07161, section 3.3 (large masks of polygonal chains and rectangles).
    """
    plane = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(*STROKES, endpoint=True)):
        place, angle = rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi)
        width = max(round(rng.uniform(*WIDTHS) * size), 1)
        for _ in range(rng.integers(*CORNERS, endpoint=True)):
            angle += rng.uniform(-np.pi / 2, np.pi / 2)
            step = rng.uniform(*LENGTHS) * size * np.array([np.cos(angle), np.sin(angle)])
            following = np.clip(place + step, 0, size - 1)
            start, end = ((int(x), int(y)) for x, y in (place, following))
            cv2.line(plane, start, end, color=1, thickness=width)
            place = following
    for _ in range(rng.integers(*BOXES, endpoint=True)):
        across, down = (max(round(share * size), 1) for share in rng.uniform(*SIDES, 2))
        left, top = (int(rng.integers(0, size - side + 1)) for side in (across, down))
        plane[top : top + down, left : left + across] = 1
    hole = plane.astype(bool)
    return strokes(size, rng) if hole.all() or not hole.any() else hole


def sides(size: int, rng: np.random.Generator) -> Hole:
    """What outpainting adds: each side with probability one half, all four if none, up to half of the picture deep."""
    chosen = rng.random(4) < 0.5
    chosen = chosen if chosen.any() else ~chosen
    depth = np.where(chosen, np.ceil(rng.uniform(0, OUTPAINT_DEPTH, 4) * size), 0).astype(int)
    left, right, top, bottom = (int(each) for each in depth)
    hole = np.ones((size, size), bool)
    hole[top : size - bottom, left : size - right] = False
    return sides(size, rng) if hole.all() else hole


def box(mask: Hole, rng: np.random.Generator) -> Hole:
    """The box of an object, a little wider; half of the time with a warped outline round it.

    Args:
        mask: [h, w], not empty.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    margin = _scaled(BOX_MARGIN, mask) + 1  # and the object is grown by one
    hole = np.zeros(mask.shape, bool)
    hole[max(rows[0] - margin, 0) : rows[-1] + 1 + margin, max(columns[0] - margin, 0) : columns[-1] + 1 + margin] = 1
    return hole if rng.random() < 0.5 else hole | _warped(hole, rng)


def grown(mask: Hole, rng: np.random.Generator) -> Hole:
    """An object grown by a random number of times: its shape, more and more loosely."""
    kernel = 2 * (_scaled(int(rng.integers(*KERNELS, endpoint=True)), mask) // 2) + 1
    times = int(rng.integers(*GROWTHS, endpoint=True))
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=_scaled(3, mask))
    if times == 0 or kernel < 3:
        return near.astype(bool)
    return cv2.dilate(near, np.ones((kernel, kernel), np.uint8), iterations=times).astype(bool)


def fit(mask: Hole, hole: Hole) -> float:
    """How closely an object fills its hole, 0 to 1: the weight of the shape prompt in training."""
    return float(min(mask.sum() / max(hole.sum(), 1), 1.0))


def _scaled(pixels: int, plane: Hole) -> int:
    """Published pixels in a picture of this size, at least one."""
    return max(round(pixels * plane.shape[0] / _PUBLISHED_SIZE), 1)


def _warped(hole: Hole, rng: np.random.Generator) -> Hole:
    """``hole`` with a wavy outline, the waves as wide as they are high."""
    reach = WARP * float(np.sqrt(hole.sum()))
    waves = rng.normal(size=(2, *hole.shape)).astype(np.float32)
    waves = np.stack([cv2.GaussianBlur(wave, (0, 0), max(reach, 0.5)) for wave in waves])
    waves *= reach / max(float(np.abs(waves).max()), 1e-6)
    y, x = np.mgrid[: hole.shape[0], : hole.shape[1]].astype(np.float32)
    found = cv2.remap(hole.astype(np.uint8), x + waves[0], y + waves[1], cv2.INTER_NEAREST)
    return found.astype(bool)
