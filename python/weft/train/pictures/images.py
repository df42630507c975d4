"""A few reference pictures, from wherever the user keeps them, as square tensors of the model's size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from weft.train.core import torch_generator

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SMALLEST_SHARE = 4  # a picture's shorter side must be at least the model's size over this
SMALLEST_CROP = 0.75  # side of a random crop, as a share of the picture's shorter side


@dataclass(frozen=True)
class View:
    """One square of one picture.

    Attributes:
        pixels: [3, size, size] fp32 in [-1, 1].
        original: (h, w) of the picture; SDXL gets it as a condition.
        corner: (top, left) of the square after the picture was resized to the model's size; SDXL gets it too.
    """

    pixels: Tensor
    original: tuple[int, int]
    corner: tuple[int, int]


def read_images(images: Any) -> list[Image.Image]:
    """The pictures as RGB, turned as their camera meant them.

    Args:
        images: A folder; or a sequence of files and PIL images.

    Raises:
        TypeError: Something else.
        FileNotFoundError: A file or folder that is not there.
        ValueError: None at all, or a file that cannot be read as a picture.
    """
    if isinstance(images, (str, Path)):
        folder = Path(images)
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "is not there"
            raise FileNotFoundError(f"images: must be a folder of pictures; {folder} {what}")
        images = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not images:
            raise ValueError(f"images: the folder {folder} holds no picture ({', '.join(SUFFIXES)})")
    if isinstance(images, Image.Image) or not isinstance(images, Iterable):
        raise TypeError(f"images: must be a folder, or a sequence of files or PIL images; got {type(images).__name__}")
    listed = [read_image(image) for image in images]
    if not listed:
        raise ValueError("images: needs at least one picture; got none")
    return listed


def read_image(image: Any) -> Image.Image:
    """One picture as RGB, turned as its camera meant it.

    Raises:
        TypeError: Neither a file nor a PIL image.
        FileNotFoundError: A file that is not there.
        ValueError: A file that cannot be read as a picture.
    """
    if isinstance(image, (str, Path)):
        if not Path(image).is_file():
            raise FileNotFoundError(f"images: there is no file {image}")
        try:
            with Image.open(image) as opened:
                return ImageOps.exif_transpose(opened).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
            raise ValueError(f"images: {image} cannot be read as a picture: {error}") from error
    if isinstance(image, Image.Image):
        return ImageOps.exif_transpose(image).convert("RGB")
    raise TypeError(f"images: must be files or PIL images; got {type(image).__name__}")


def views(
    images: Sequence[Image.Image], size: int, *, crops: int = 1, flip: bool = False, seed: int = 0
) -> list[View]:
    """Squares of ``size`` pixels from every picture: the centre, ``crops`` - 1 random ones, and their mirror images.

    Raises:
        ValueError: A picture that is too small to show anything at this size.
    """
    found = []
    for index, image in enumerate(images):
        if min(image.size) * SMALLEST_SHARE < size:
            raise ValueError(
                f"images: picture {index + 1} of {len(images)} is too small: {image.width} x {image.height} pixels "
                f"for a model of {size} x {size}; its shorter side must be at least {-(-size // SMALLEST_SHARE)}"
            )
        for crop in range(crops):
            view = _square(image, size, None if crop == 0 else torch_generator(seed, index, crop))
            found.append(view)
            if flip:
                found.append(View(view.pixels.flip(-1), view.original, view.corner))
    return found


def digest_of_views(found: Sequence[View]) -> str:
    """A name for exactly these squares."""
    sha = hashlib.sha256()
    for view in found:
        sha.update(view.pixels.numpy().tobytes())
    return sha.hexdigest()[:16]


def _square(image: Image.Image, size: int, generator: torch.Generator | None) -> View:
    """The largest square in the middle, or a random one."""
    shorter = min(image.size)
    if generator is None:
        side, left, top = shorter, (image.width - shorter) // 2, (image.height - shorter) // 2
    else:
        share, across, down = torch.rand(3, generator=generator).tolist()
        side = round(shorter * (SMALLEST_CROP + (1 - SMALLEST_CROP) * share))
        left, top = round((image.width - side) * across), round((image.height - side) * down)
    square = image.resize((size, size), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1.0
    scale = size / side
    return View(pixels, (image.height, image.width), (round(top * scale), round(left * scale)))
