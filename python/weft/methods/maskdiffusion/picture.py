"""Regions drawn over the image they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from weft.methods._shown_picture import as_picture

if TYPE_CHECKING:
    from PIL import Image

_SMALLEST_SIDE = 256  # pixels
# distinct on light and dark ground, and for readers who see no red or green (Okabe and Ito 2008)
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (0, 114, 178))


def draw_regions(image: Any, masks: Tensor, names: Sequence[str]) -> Image.Image:
    """Outline each region and write its name into it.

    Args:
        image: Of any size, as ``as_picture`` takes it; small ones are enlarged.
        masks: bool [n, h, w], one a name.
        names: What to write.
    """
    import cv2
    from PIL import Image, ImageDraw, ImageFont

    image = as_picture(image, who="MaskDiffusion.image: `over`")
    times = -(-_SMALLEST_SIDE // min(image.size))
    picture = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    width = max(2, min(picture.size) // 128)
    font = ImageFont.load_default(size=max(10, min(picture.size) // 20))
    for number, (mask, name) in enumerate(zip(masks.cpu().numpy().astype("uint8"), names, strict=True)):
        if not mask.any():
            continue
        colour = _COLOURS[number % len(_COLOURS)]
        large = cv2.resize(mask, picture.size, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        for outline in outlines:
            corners = [tuple(point) for point in outline[:, 0].tolist()]
            pen.line([*corners, corners[0]], fill=colour, width=width)
        left, top, _, _ = cv2.boundingRect(large)
        # a name that is longer than its region is wide stays within the picture
        _, _, right, bottom = pen.textbbox((0, 0), name, font=font)
        place = (
            max(0, min(left + width + 2, picture.width - 1 - right)),
            min(top + width, picture.height - 1 - bottom),
        )
        pen.rectangle(pen.textbbox(place, name, font=font), fill="black")
        pen.text(place, name, fill=colour, font=font)
    return picture
