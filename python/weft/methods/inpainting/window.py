"""Which part of a picture is worked on, and at which size: plain arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Crop = Literal["auto", "on", "off"]

LONGEST = 2  # the longer side of what is worked on, in sides of the model's own pictures
LEAST_MARGIN = 1 / 8  # pixels round a hole, in sides of the model's own pictures


@dataclass(frozen=True)
class Window:
    """A part of a picture, and the size at which the model sees it.

    Attributes:
        left, top, width, height: In pixels of the picture.
        work: (width, height) in pixels of the model.
    """

    left: int
    top: int
    width: int
    height: int
    work: tuple[int, int]

    @property
    def rows(self) -> slice:
        """Of the picture."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Of the picture."""
        return slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a model in pixels: the side of its own pictures, and what every side must be a multiple of."""

    native: int
    multiple: int


def choose_window(
    hole: tuple[int, int, int, int], picture: tuple[int, int], model: ModelSize, crop: Crop, margin: float
) -> Window:
    """The part of a picture round its hole that is worked on.

    Args:
        hole: (left, top, right, bottom) of the hole, right and bottom outside it.
        picture: (width, height).
        crop: "on" takes a square round the hole with ``margin`` on every side and shows it at the model's own size;
            "auto" does so in pictures larger than the model's own, and takes no fewer pixels than the model has; "off"
            takes the picture as it is.
        margin: Pixels round the hole, as a share of its longer side.
    """
    width, height = picture
    if crop == "off" or (crop == "auto" and max(picture) <= model.native):
        return Window(0, 0, width, height, _work_size(picture, model, keeps_size=crop == "off"))
    left, top, right, bottom = hole
    longer = max(right - left, bottom - top)
    side = longer + 2 * max(round(margin * longer), round(LEAST_MARGIN * model.native))
    if crop == "auto":
        side = max(side, model.native)
    x, across = _span(left, right, side, width)
    y, down = _span(top, bottom, side, height)
    return Window(x, y, across, down, _work_size((across, down), model))


def _span(first: int, last: int, side: int, length: int) -> tuple[int, int]:
    """(start, length) of a stretch of ``side`` pixels round first to last, moved and cut to lie in the picture."""
    side = min(side, length)
    start = (first + last - side) // 2
    return min(max(start, 0), length - side), side


def _work_size(size: tuple[int, int], model: ModelSize, *, keeps_size: bool = False) -> tuple[int, int]:
    """The size at which the model sees ``size`` pixels: its shorter side is the model's own, or not below it."""
    scale = min(model.native / min(size), LONGEST * model.native / max(size))
    if keeps_size:
        scale = max(1.0, model.native / min(size))
    across, down = (max(int(side * scale + 0.5) // model.multiple, 1) * model.multiple for side in size)
    return across, down
