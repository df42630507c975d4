"""One hole of one picture: what the model is shown of it, and how what it painted is pasted back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from PIL import Image

from weft.methods.inpainting.paste import Blend, paste
from weft.methods.inpainting.pictures import Hole, Pixels
from weft.methods.inpainting.window import Crop, Window


@dataclass(frozen=True)
class PasteBack:
    """How pictures are cut for the model, and what it painted is pasted back.

    Attributes:
        blend: "feather" fades what was painted into the picture in a rim round the hole; "laplacian" and "poisson"
            remove differences in colour as well; "hard" has no rim. Beyond the rim every pixel keeps its bits.
        feather: Pixels of the rim; None for one cell of the latent, as many pixels as that is in the picture.
        crop: "auto" works on a part round the hole in pictures larger than the model's own; "on" in all pictures;
            "off" works on the whole picture, at its own size.
        margin: Of that part round the hole, as a share of the hole's longer side.
        covers_cells: The model paints every cell of the latent that the hole touches; otherwise only those
            whose corner pixel is in the hole, as diffusers does, so that a thin line may be lost.
    """

    blend: Blend = "feather"
    feather: int | None = None
    crop: Crop = "auto"
    margin: float = 0.5
    covers_cells: bool = True

    def __post_init__(self) -> None:
        for name, known in (("blend", Blend), ("crop", Crop)):
            if getattr(self, name) not in get_args(known):
                choices = ", ".join(map(repr, get_args(known)))
                raise ValueError(f"PasteBack: `{name}` must be one of {choices}; got {getattr(self, name)!r}")
        if self.feather is not None and self.feather < 0:
            raise ValueError(f"PasteBack: `feather` must be at least 0 pixels, or None; got {self.feather}")
        if not self.margin >= 0:
            raise ValueError(f"PasteBack: `margin` must be at least 0; got {self.margin}")


@dataclass(frozen=True, eq=False)
class Job:
    """One hole of one picture.

    Attributes:
        result: Number of the picture that is made.
        row: Number of its embeddings and texts.
        picture, hole: Whole.
        window: The part that is worked on.
    """

    result: int
    row: int
    picture: Pixels
    hole: Hole
    window: Window

    def shown(self) -> Image.Image:
        """What the model sees of the picture."""
        part = np.ascontiguousarray(self.picture[self.window.rows, self.window.columns])
        return _resized(part, self.window.work)

    def mask(self, multiple: int, covers_cells: bool) -> Image.Image:
        """What the model is asked to paint: every pixel that the hole touches, rounded up to whole cells."""
        across, down = self.window.work
        part = self.hole[self.window.rows, self.window.columns]
        scaled = _touched(_touched(part, down).T, across).T
        if covers_cells:
            cells = scaled.reshape(down // multiple, multiple, across // multiple, multiple).any((1, 3))
            scaled = np.kron(cells, np.ones((multiple, multiple), bool))
        return Image.fromarray(scaled.astype(np.uint8) * 255)

    def paste(self, into: Pixels, painted: Image.Image, settings: PasteBack, multiple: int) -> None:
        """Paste ``painted`` into the picture ``into``, in place."""
        window = self.window
        scale = max(window.width / window.work[0], window.height / window.work[1])
        feather = settings.feather if settings.feather is not None else max(round(multiple * scale), 1)
        part = into[window.rows, window.columns]
        hole = self.hole[window.rows, window.columns]
        inside = np.asarray(_resized(np.asarray(painted.convert("RGB")), (window.width, window.height)))
        into[window.rows, window.columns] = paste(part, inside, hole, settings.blend, feather)


def _touched(hole: Hole, length: int) -> Hole:
    """``hole`` with ``length`` rows, each True where it overlaps anything of the hole."""
    rows = np.arange(length)
    first, last = rows * len(hole) // length, -(-(rows + 1) * len(hole) // length)
    counted = np.concatenate([np.zeros((1, hole.shape[1]), np.int64), hole.cumsum(0)])
    return np.asarray(counted[last] > counted[first])


def _resized(pixels: Pixels, size: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(pixels)
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)
