"""Pictures and masks as users have them, as arrays of 8 bits; unsuitable input raises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]  # [h, w, 3], sRGB
Hole = NDArray[np.bool_]  # [h, w], True where something new shall be painted

THRESHOLD = 128  # grey level from which a mask's pixel is repainted
_PLAIN = ("RGB", "L", "1")


def read_pictures(images: Any, *, who: str) -> list[Pixels]:
    """One picture or a sequence of them: PIL images, files, or arrays [h, w, 3] of 8 bits.

    Raises:
        TypeError: Something else.
        FileNotFoundError: A file that is not there.
        ValueError: A file that is no picture, or pixels that RGB of 8 bits cannot hold.
    """
    listed = images if is_sequence(images) else [images]
    if not listed:
        raise ValueError(f"{who}: needs at least one picture; got none")
    return [np.asarray(_rgb(image, "the picture", who)) for image in listed]


def read_masks(masks: Any, pictures: Sequence[Pixels], *, who: str) -> list[list[Hole]]:
    """The masks of every picture: white where something new shall be painted, black where all stays.

    Args:
        masks: One mask for all pictures; one for each; or for each a sequence of them, every one painted by itself.
            A sequence beside a single picture is of that one.

    Raises:
        TypeError, FileNotFoundError: As ``read_pictures``.
        ValueError: As there; or a mask that is empty, covers everything, is coloured, or has another size.
    """
    if not is_sequence(masks):
        groups = [[masks]] * len(pictures)
    elif len(pictures) == 1 and not any(is_sequence(mask) for mask in masks):
        groups = [list(masks)]
    else:
        groups = [list(mask) if is_sequence(mask) else [mask] for mask in masks]
    if len(groups) != len(pictures) or not all(groups):
        raise ValueError(
            f"{who}: needs one mask for all pictures or at least one for each; got {len(pictures)} pictures and masks "
            f"for {sum(map(bool, groups))}"
        )
    return [[_hole(mask, picture, who) for mask in group] for group, picture in zip(groups, pictures, strict=True)]


def _hole(mask: Any, picture: Pixels, who: str) -> Hole:
    grey, name = np.asarray(_rgb(mask, "the mask", who)), _named(mask, "the mask")
    (height, width), (rows, columns) = picture.shape[:2], grey.shape[:2]
    if (rows, columns) != (height, width):
        raise ValueError(
            f"{who}: {name} must be as large as the picture, {width} x {height} pixels; it has {columns} x {rows}; "
            "draw it over the picture, or resize it with Image.Resampling.NEAREST"
        )
    if not (grey[..., :1] == grey).all():
        raise ValueError(
            f"{who}: {name} must be black and white, white where to paint; this one has colours; are picture and mask "
            "exchanged?"
        )
    hole: Hole = grey[..., 0] >= THRESHOLD
    if not hole.any():
        raise ValueError(
            f"{who}: {name} must be white where to paint; this one is black everywhere (its largest grey level is "
            f"{grey.max()}, {THRESHOLD} is needed)"
        )
    if hole.all():
        raise ValueError(
            f"{who}: {name} must leave something of the picture; this one is white everywhere; to make a whole "
            "picture use a text-to-image pipeline; if the mask is the wrong way round, invert it"
        )
    return hole


def _rgb(image: Any, what: str, who: str) -> Image.Image:
    """``image`` in RGB without any loss."""
    image, what = _opened(image, what, who), _named(image, what)
    # a camera's turn, and transparency, are not pixels yet
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        least = image.getchannel("A").getextrema()[0]
        if least < 255:
            raise ValueError(
                f"{who}: {what} must be opaque; it has transparent pixels (alpha down to {least}), whose colour is "
                "undefined; lay it over a background first, with Image.alpha_composite"
            )
        return image.convert("RGB")
    if image.mode not in (*_PLAIN, "P"):
        raise ValueError(
            f"{who}: {what} must have 8 bits a channel in RGB, grey or a palette; it has mode {image.mode!r}; "
            "convert it first, with .convert('RGB')"
        )
    return image.convert("RGB")


def _named(image: Any, what: str) -> str:
    """``what`` it is, with its file where it has one."""
    return f"{what} {image}" if isinstance(image, (str, Path)) else what


def _opened(image: Any, what: str, who: str) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, (str, Path)):
        if not Path(image).is_file():
            raise FileNotFoundError(f"{who}: there is no file {image} for {what}")
        try:
            with Image.open(image) as opened:
                opened.load()
                return opened
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:  # what Pillow raises
            raise ValueError(f"{who}: {image} cannot be read as a picture: {error}") from error
    if isinstance(image, np.ndarray):
        if image.dtype == np.bool_:
            image = image.astype(np.uint8) * 255
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
            raise TypeError(
                f"{who}: an array for {what} must be [h, w] or [h, w, 3] of uint8, 0 to 255; got "
                f"{list(image.shape)} of {image.dtype}"
            )
        return Image.fromarray(image)
    raise TypeError(
        f"{who}: {what} must be a PIL image, a file, or an array of uint8; got {type(image).__name__}; tensors are "
        "converted by diffusers' VaeImageProcessor.postprocess"
    )


def is_sequence(value: Any) -> bool:
    """Whether there may be several: a list or the like, but no text."""
    return isinstance(value, Sequence) and not isinstance(value, str)
