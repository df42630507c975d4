"""Things that the model was never shown and can be taught: shapes of two colours, and reference pictures of them.

A reference picture is a pure function of (concept, seed, index).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from .rendering import coverage
from .vocabulary import COLOURS, IMAGE_SIZE, SHAPES
from .world import BACKGROUND_RANGE, BACKGROUND_TINT, MARGIN, Pair, Rgb

Pattern = Literal["side by side", "stacked", "striped"]

# nominal radius in pixels; larger than those of scenes, for the autoencoder blurs three pixels between two colours
REFERENCE_SIZES = (13.0, 17.0)
STRIPE = 0.33  # half the width of the middle stripe, in units of the nominal radius


@dataclass(frozen=True)
class Finish:
    """How two colours share an object.

    Attributes:
        pattern: "side by side" has the first colour on the left, "stacked" on top, "striped" above and below a
            stripe of the second.
        first, second: Of ``COLOURS``.
    """

    pattern: Pattern
    first: str
    second: str

    def __post_init__(self) -> None:
        if self.pattern not in get_args(Pattern):
            raise ValueError(f"Finish: `pattern` must be one of {get_args(Pattern)}; got {self.pattern!r}")
        for colour in (self.first, self.second):
            if colour not in COLOURS:
                raise ValueError(f"Finish: colours must be of {', '.join(COLOURS)}; got {colour!r}")
        if self.first == self.second:
            raise ValueError(f"Finish: needs two colours; got {self.first!r} twice")

    @property
    def name(self) -> str:
        """What replaces a colour: "red and white side by side"."""
        return f"{self.first} and {self.second} {self.pattern}"


@dataclass(frozen=True)
class Concept:
    """A shape with a finish."""

    shape: str
    finish: Finish

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"Concept: `shape` must be one of {', '.join(SHAPES)}; got {self.shape!r}")

    @property
    def pair(self) -> Pair:
        """What a detection and a prompt say of it, as (colour, shape)."""
        return self.finish.name, self.shape

    @property
    def nearest(self) -> Pair:
        """The (colour, shape) of the world that comes closest: the shape in the first colour alone."""
        return self.finish.first, self.shape

    def __str__(self) -> str:
        return " ".join(self.pair)


def finish_share(finish: Finish, x: float, y: float, size: float) -> np.ndarray:
    """Share of each pixel that has the second colour, for an object at (x, y) with nominal radius ``size``; [h, w]."""
    centres = np.arange(IMAGE_SIZE) + 0.5
    across, down = np.broadcast_arrays(centres[None, :] - x, centres[:, None] - y)
    distance = {"side by side": across, "stacked": down, "striped": STRIPE * size - np.abs(down)}[finish.pattern]
    return np.clip(0.5 + distance, 0.0, 1.0)


def two_coverages(concept: Concept, x: float, y: float, size: float) -> np.ndarray:
    """Share of each pixel that a concept covers with its first and with its second colour; [2, h, w] in [0, 1]."""
    alpha, second = coverage(concept.shape, x, y, size), finish_share(concept.finish, x, y, size)
    return alpha * np.stack([1 - second, second])


def render_concept(concept: Concept, x: float, y: float, size: float, background: Rgb) -> np.ndarray:
    """Draw a concept alone on a plain background; [h, w, 3] uint8, sRGB."""
    shares = two_coverages(concept, x, y, size)
    colours = np.array([COLOURS[concept.finish.first], COLOURS[concept.finish.second]], float)
    image = (1 - shares.sum(0))[..., None] * np.array(background, float) + np.einsum("khw,kc->hwc", shares, colours)
    return np.round(image).astype(np.uint8)


def reference(concept: Concept, seed: int, index: int) -> np.ndarray:
    """Reference picture number ``index`` of a concept: always the same thing, at another place and size, on another
    background.

    Returns:
        [h, w, 3] uint8, sRGB.

    Raises:
        ValueError: ``seed`` or ``index`` is negative.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"reference: `seed` and `index` must not be negative; got {seed} and {index}")
    rng = np.random.default_rng([seed, index])
    size = float(rng.uniform(*REFERENCE_SIZES))
    x, y = rng.uniform(1.2 * size + MARGIN, IMAGE_SIZE - 1.2 * size - MARGIN, 2)
    grey = rng.integers(*BACKGROUND_RANGE, endpoint=True)
    red, green, blue = np.clip(grey + rng.integers(-BACKGROUND_TINT, BACKGROUND_TINT, 3, endpoint=True), 0, 255)
    return render_concept(concept, float(x), float(y), size, (int(red), int(green), int(blue)))


def references(concept: Concept, n: int, seed: int = 0) -> list[Image.Image]:
    """The first ``n`` reference pictures."""
    return [Image.fromarray(reference(concept, seed, index)) for index in range(n)]
