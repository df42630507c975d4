"""From a scene to pixels: every shape is a signed distance, and a pixel's coverage follows from it.

The distances are exact near the edge, which is all that anti-aliasing needs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .vocabulary import IMAGE_SIZE
from .world import Scene

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _regular_polygon(points: int, inner: float | None = None) -> np.ndarray:
    """Vertices [n, 2] on the unit circle with one on top; with ``inner``, a star whose notches lie at that radius."""
    count = points if inner is None else 2 * points
    angles = -np.pi / 2 + 2 * np.pi * np.arange(count) / count
    radii = np.ones(count) if inner is None else np.where(np.arange(count) % 2, inner, 1.0)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1)


def _polygon(vertices: np.ndarray) -> Distance:
    """Signed distance to a polygon [n, 2]: the nearest edge, negative where an even-odd count says inside."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = np.broadcast_arrays(x, y)
        nearest, inside = np.full(x.shape, np.inf), np.zeros(x.shape, bool)
        for (ax, ay), (bx, by) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
            ex, ey = bx - ax, by - ay
            along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
            crosses = (ay > y) != (by > y)
            inside ^= crosses & (x < ax + (y - ay) * ex / np.where(ey == 0, 1, ey))
        return np.where(inside, -nearest, nearest)

    return distance


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.80


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
    return np.maximum(long - 0.95, short - 0.32)


# each maps coordinates in units of the nominal radius to a distance in the same unit, negative inside
DISTANCES: dict[str, Distance] = {
    "circle": lambda x, y: np.hypot(x, y) - 0.92,
    "square": _square,
    "triangle": _polygon(_regular_polygon(3) * 1.08 + (0.0, 0.20)),
    "star": _polygon(_regular_polygon(5, inner=0.45) * 1.08 + (0.0, 0.06)),
    "cross": _cross,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.74) - 0.22,
}

_CENTRES = np.arange(IMAGE_SIZE) + 0.5  # pixel centres


def coverage(shape: str, x: float, y: float, size: float) -> np.ndarray:
    """Share of each pixel that a shape covers.

    Args:
        shape: One of ``SHAPES``.
        x, y: Centre in pixels.
        size: Nominal radius in pixels.

    Returns:
        [h, w] float64 in [0, 1].
    """
    distance = DISTANCES[shape]((_CENTRES[None, :] - x) / size, (_CENTRES[:, None] - y) / size) * size
    return np.clip(0.5 - distance, 0.0, 1.0)


def render(scene: Scene) -> np.ndarray:
    """Draw a scene with anti-aliased edges.

    Returns:
        [h, w, 3] uint8, sRGB.
    """
    image = np.broadcast_to(np.array(scene.background, float), (IMAGE_SIZE, IMAGE_SIZE, 3)).copy()
    for item in scene.objects:
        alpha = coverage(item.shape, item.x, item.y, item.size)[..., None]
        image += alpha * (np.array(item.rgb, float) - image)
    return np.round(image).astype(np.uint8)
