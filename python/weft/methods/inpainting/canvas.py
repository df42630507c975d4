"""A larger canvas round a picture, and the mask of what is to be painted on it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from PIL import Image

from weft.methods.inpainting.pictures import Hole, Pixels

SIDES = ("left", "right", "top", "bottom")
LARGEST = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # pixels; beyond these Pillow takes a file for a decompression bomb


def extended(
    picture: Pixels, sides: Mapping[str, float], overlap: int, fill: tuple[int, int, int], *, who: str
) -> tuple[Pixels, Hole]:
    """The picture on a larger canvas, and the hole: what is new, and ``overlap`` pixels of the picture beside it.

    Args:
        picture: [h, w, 3].
        sides: Side -> how far the canvas reaches beyond it: pixels, or below 1 a share of the picture's width (left
            and right) or height.
        overlap: Pixels of the picture, along each side that grows, that are repainted.
        fill: Colour of the canvas, 0 to 255.

    Raises:
        ValueError: No side grows, or a number out of range.
    """
    height, width = picture.shape[:2]
    lengths = {"left": width, "right": width, "top": height, "bottom": height}
    for side, reach in sides.items():
        if not 0 <= reach < math.inf or (reach >= 1 and reach != int(reach)):
            raise ValueError(f"{who}: `{side}` must be whole pixels, or a share below 1 of the picture; got {reach}")
    left, right, top, bottom = (
        round(sides[side] * lengths[side]) if sides[side] < 1 else int(sides[side]) for side in SIDES
    )
    if left + right + top + bottom == 0:
        raise ValueError(f"{who}: at least one of {', '.join(f'`{side}`' for side in SIDES)} must be above 0")
    if (size := (left + width + right) * (top + height + bottom)) > LARGEST:
        raise ValueError(
            f"{who}: the canvas may have {LARGEST:,} pixels; these sides make {size:,}: {left + width + right} x "
            f"{top + height + bottom}"
        )
    inner_width = width - overlap * (bool(left) + bool(right))
    inner_height = height - overlap * (bool(top) + bool(bottom))
    if overlap < 0 or inner_width < 1 or inner_height < 1:
        raise ValueError(
            f"{who}: `overlap` must be at least 0 and leave something of the picture's {width} x {height} pixels; "
            f"got {overlap}"
        )
    canvas = np.full((top + height + bottom, left + width + right, 3), fill, np.uint8)
    canvas[top : top + height, left : left + width] = picture
    hole = np.ones(canvas.shape[:2], bool)
    first_row, first_column = top + overlap * bool(top), left + overlap * bool(left)
    hole[first_row : first_row + inner_height, first_column : first_column + inner_width] = False
    return canvas, hole
