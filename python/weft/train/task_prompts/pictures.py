"""Pictures with masks of the objects they show, from wherever the user keeps them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weft.train.pictures import SUFFIXES, read_image

METADATA = "metadata.jsonl"  # of an image folder, as the datasets library has it
_DIGESTED = 64  # pictures that a digest asks for their captions

Hole = NDArray[np.bool_]  # [h, w]
Pixels = NDArray[np.uint8]  # [h, w, 3]


@dataclass(frozen=True, eq=False)
class MaskedObject:
    """One object of a picture.

    Attributes:
        mask: A file or picture, white where the object is.
        caption: What it is: "a red circle".
    """

    mask: Path | Image.Image
    caption: str


@dataclass(frozen=True, eq=False)
class MaskedPicture:
    """A picture, what it shows, and where.

    Attributes:
        image: A file, or the picture itself.
        caption: Of the whole; may be empty.
        objects: Those that are known; a picture without any takes part in tasks that need none.
    """

    image: Path | Image.Image
    caption: str = ""
    objects: tuple[MaskedObject, ...] = ()

    def square(self, size: int) -> Pixels:
        """The largest square in its middle, ``size`` pixels wide."""
        return np.asarray(_square(read_image(self.image), size))

    def mask(self, number: int, size: int) -> Hole:
        """The same part of the mask of an object; empty where the object lies outside of it."""
        mask = self.objects[number].mask
        return np.asarray(_square(read_image(mask), size, Image.Resampling.BOX))[..., 0] >= 128


def read_masked_pictures(data: Any, *, who: str) -> Sequence[MaskedPicture]:
    """Pictures to learn inpainting from.

    Args:
        data: A folder with ``metadata.jsonl``, rows of ``file_name``, ``text`` and ``objects``, each of which has a
            ``mask`` (a file) and a ``text``; or a folder of pictures alone; or a sequence of ``MaskedPicture``, which
            may make them as they are asked for.
        who: For messages.

    Raises:
        TypeError: Something else.
        FileNotFoundError: A folder or file that is not there.
        ValueError: No picture, or a row that says something else.
    """
    if isinstance(data, (str, Path)):
        data = tuple(_of_folder(Path(data), who))
    if not isinstance(data, Sequence) or (len(data) and not isinstance(data[0], MaskedPicture)):
        raise TypeError(
            f"{who}: pictures must be a folder or a sequence of weft.train.MaskedPicture; got {type(data).__name__}"
        )
    if not len(data):
        raise ValueError(f"{who}: needs at least one picture; got none")
    return data


def digest(pictures: Sequence[MaskedPicture]) -> str:
    """A name for these pictures: how many, and the captions of some of them."""
    step = max(len(pictures) // _DIGESTED, 1)
    captions = [(picture.caption, [known.caption for known in picture.objects]) for picture in pictures[::step]]
    return hashlib.sha256(repr((len(pictures), captions)).encode()).hexdigest()[:16]


def _square(image: Image.Image, size: int, how: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    return image.resize((size, size), how, (left, top, left + shorter, top + shorter))


def _of_folder(folder: Path, who: str) -> Iterator[MaskedPicture]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{who}: pictures must be a folder; there is none at {folder}")
    listing = folder / METADATA
    if not listing.is_file():
        yield from (MaskedPicture(path) for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES)
        return
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            known = tuple(
                MaskedObject(_inside(folder, entry["mask"]), str(entry.get("text") or ""))
                for entry in row.get("objects") or ()
            )
            yield MaskedPicture(_inside(folder, row["file_name"]), str(row.get("text") or ""), known)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{who}: line {number} of {listing} must be JSON with `file_name`, `text` and `objects`, a list of "
                f"`mask` and `text`; got {line[:80]!r} ({error})"
            ) from error


def _inside(folder: Path, name: Any) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} is outside the folder")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path
