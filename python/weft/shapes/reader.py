"""From pixels back to objects, by explaining each blob with the renderer's own shapes.

The background is the median colour; what differs from it falls into blobs; a blob's colour gives its soft
coverage, and the shape whose rendering overlaps that coverage best is what the blob shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from .rendering import coverage
from .vocabulary import COLOURS, IMAGE_SIZE, SHAPES

Picture = np.ndarray | torch.Tensor | Image.Image

# Euclidean sRGB levels. The palest pair, green on a grey background, is about 80 apart.
FOREGROUND_DISTANCE = 40.0
CORE_COVERAGE = 0.75  # of a blob's farthest pixels; edges are mixed with the background and do not show the colour
MIN_AREA = 20.0  # pixels; the smallest shape the world draws covers 80
SPLIT_AREA = 16  # core pixels of a second colour that make a blob two touching objects
EIGHT = np.ones((3, 3), int)  # neighbourhood in which pixels belong together
PALETTE = np.array(list(COLOURS.values()), float)  # [8, 3]
_MOVES = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))  # of (x, y, size)


@dataclass(frozen=True)
class Detection:
    """One object found in an image.

    Attributes:
        shape, colour: Nearest of the world's.
        x, y: Centre in pixels.
        size: Nominal radius in pixels.
        area: Covered pixels.
        confidence: Soft intersection over union with the ideal shape, 0 to 1; a clean object has 0.85 or more.
    """

    shape: str
    colour: str
    x: float
    y: float
    size: float
    area: float
    confidence: float

    @property
    def pair(self) -> tuple[str, str]:
        """(colour, shape)."""
        return self.colour, self.shape


def read(image: Picture) -> list[Detection]:
    """Find every object of an image, left to right.

    Args:
        image: 64x64 RGB as a PIL image, an array [h, w, 3] or a tensor [3, h, w]; uint8, or floats in [0, 1].

    Returns:
        Detections sorted by ``x``; empty for a plain background.

    Raises:
        TypeError: ``image`` is of none of these types.
        ValueError: Its shape or range is another.
    """
    pixels = as_pixels(image)
    background = background_of(pixels)
    colours = nearest_colour(pixels)
    parts = [part for blob in blobs(pixels, background) for part in split(blob, colours)]
    found = [explain(part, pixels, background) for part in parts]
    return sorted((item for item in found if item is not None), key=lambda item: item.x)


def background_of(pixels: np.ndarray) -> np.ndarray:
    """The colour of the background of pixels [h, w, 3]."""
    return np.median(pixels.reshape(-1, 3), axis=0)


def blobs(pixels: np.ndarray, background: np.ndarray) -> list[np.ndarray]:
    """What differs from the background, as masks [h, w] bool of pixels that belong together."""
    labels, count = ndimage.label(np.linalg.norm(pixels - background, axis=-1) > FOREGROUND_DISTANCE, EIGHT)
    return [labels == i for i in range(1, count + 1)]


def as_pixels(image: Picture) -> np.ndarray:
    """Any accepted image as [h, w, 3] float64 in [0, 255]; the errors of ``read``."""
    if isinstance(image, Image.Image):
        values = np.asarray(image.convert("RGB"))
    elif isinstance(image, torch.Tensor):
        tensor = image.detach().cpu()
        # numpy knows no bfloat16
        values = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        values = np.moveaxis(values, 0, -1) if values.ndim == 3 else values
    elif isinstance(image, np.ndarray):
        values = image
    else:
        raise TypeError(f"read: `image` must be a PIL image, an array or a tensor; got {type(image).__name__}")
    if values.shape != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise ValueError(f"read: `image` must be {IMAGE_SIZE}x{IMAGE_SIZE} RGB; got {tuple(image_shape(image))}")
    if values.dtype == np.uint8:
        return values.astype(float)
    if not np.issubdtype(values.dtype, np.floating):
        raise TypeError(f"read: `image` must be uint8 or floating; got {values.dtype}")
    if not (values.min() >= -1e-3 and values.max() <= 1 + 1e-3):
        raise ValueError(f"read: float images lie in [0, 1]; got [{values.min():.3g}, {values.max():.3g}]")
    return values.astype(float) * 255.0


def image_shape(image: Picture) -> tuple[int, ...]:
    """Shape as the caller sees it, for messages."""
    return (image.height, image.width) if isinstance(image, Image.Image) else tuple(image.shape)


def split(blob: np.ndarray, nearest: np.ndarray) -> list[np.ndarray]:
    """Cut a blob [h, w] bool where objects of different colours touch; most blobs come back whole.

    Args:
        blob: The blob.
        nearest: [h, w] int, which colour each pixel is closest to.
    """
    core = blob & ndimage.binary_erosion(blob, EIGHT)
    seeds = np.zeros(blob.shape, int)
    for colour in np.unique(nearest[core]):
        parts, count = ndimage.label(core & (nearest == colour), EIGHT)
        for i in range(1, count + 1):
            if (parts == i).sum() >= SPLIT_AREA:
                seeds[parts == i] = seeds.max() + 1
    colours = {int(nearest[seeds == i][0]) for i in range(1, seeds.max() + 1)}
    if len(colours) < 2:
        return [blob]
    # every pixel goes to the seed nearest to it
    indices = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    owner = seeds[tuple(indices)]
    return [blob & (owner == i) for i in range(1, seeds.max() + 1)]


def nearest_colour(rgb: np.ndarray) -> np.ndarray:
    """Index into the palette of colours [..., 3]."""
    return np.linalg.norm(rgb[..., None, :] - PALETTE, axis=-1).argmin(-1)


def explain(blob: np.ndarray, pixels: np.ndarray, background: np.ndarray) -> Detection | None:
    """The object that a blob [h, w] bool shows, or None for a speck."""
    strength = np.linalg.norm(pixels - background, axis=-1) * blob
    core = strength >= CORE_COVERAGE * np.quantile(strength[blob], 0.9)
    rgb = np.median(pixels[core], axis=0)
    direction = (rgb - background) / np.square(rgb - background).sum()
    # one pixel more than the blob, for the faint side of its edge
    alpha = np.clip((pixels - background) @ direction, 0, 1) * ndimage.binary_dilation(blob, EIGHT)
    area = float(alpha.sum())
    if area < MIN_AREA:
        return None
    confidence, shape, x, y, size = fit_best(alpha)
    colour = list(COLOURS)[int(nearest_colour(rgb))]
    return Detection(shape, colour, x, y, size, area, confidence)


@lru_cache
def _moments(shape: str) -> tuple[float, float, float]:
    """Area, and offset (x, y) of the centroid from the centre, of a shape with nominal radius one."""
    centre, size = IMAGE_SIZE / 2, IMAGE_SIZE / 2 - 1
    mask = coverage(shape, centre, centre, size)
    cy, cx = ndimage.center_of_mass(mask)
    return mask.sum() / size**2, (cx + 0.5 - centre) / size, (cy + 0.5 - centre) / size


def fit_best(alpha: np.ndarray) -> tuple[float, str, float, float, float]:
    """The shape and place that overlap a soft coverage [h, w] best.

    Returns:
        (soft intersection over union, shape, x, y, size).
    """
    fits = sorted((_fit(shape, alpha, steps=()) for shape in SHAPES), reverse=True)
    return max(_fit(fit[1], alpha, steps=(0.5, 0.25)) for fit in fits[:3])


def _fit(shape: str, alpha: np.ndarray, steps: tuple[float, ...]) -> tuple[float, str, float, float, float]:
    """Place ``shape`` on a soft coverage [h, w] by its moments, then climb in ``steps`` pixels.

    Returns:
        (soft intersection over union, shape, x, y, size).
    """
    unit_area, offset_x, offset_y = _moments(shape)
    size = float(np.sqrt(alpha.sum() / unit_area))
    cy, cx = ndimage.center_of_mass(alpha)
    place = (cx + 0.5 - offset_x * size, cy + 0.5 - offset_y * size, size)

    def overlap(x: float, y: float, size: float) -> float:
        ideal = coverage(shape, x, y, size)
        return float(np.minimum(alpha, ideal).sum() / np.maximum(alpha, ideal).sum())

    best = overlap(*place)
    for step in steps:
        improved = True
        while improved:
            improved = False
            for dx, dy, ds in _MOVES:
                moved = (place[0] + dx * step, place[1] + dy * step, max(place[2] + ds * step, 1.0))
                value = overlap(*moved)
                if value > best + 1e-6:
                    best, place, improved = value, moved, True
    return best, shape, *place
