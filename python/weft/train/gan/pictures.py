"""Pictures with several captions each, as squares of one size, read when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from weft.train.gan.layouts import checked, is_coco, is_cub, read_coco, read_cub
from weft.train.pictures import Pair, digest_of_pairs, read_pairs

MARGIN = 76 / 64  # side that a picture is resized to before a random square is cut, in squares
BOX_MARGIN = 1.5  # side of the square around a box, in longer sides of the box
MOST_CACHED = 2**30  # bytes of pictures that are kept once they have been read
_DIGESTED = 64  # pictures that the digest of a lazy sequence asks for
WHO = "fit_gan"


@dataclass(frozen=True, eq=False)
class Picture:
    """One that has been read.

    Attributes:
        pixels: Before a random square is cut, uint8 [h, w, 3].
        group: Number of its class; None where it has none.
    """

    pixels: Any
    captions: tuple[str, ...]
    group: int | None


@dataclass(frozen=True, eq=False)
class Pictures:
    """Captioned pictures and how they are cut.

    Attributes:
        pairs: The pictures, perhaps made as they are asked for.
        size: Pixels of a square.
        crop: Whether a random square of a somewhat larger picture is taken, each time another.
        flip: Whether half of them are mirrored; wrong where captions distinguish left from right.
    """

    pairs: Sequence[Any]
    size: int
    crop: bool
    flip: bool
    _cache: dict[int, Picture] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: int) -> Picture:
        if place in self._cache:
            return self._cache[place]
        pair = _as_pair(self.pairs[place], place)
        side = round(self.size * MARGIN) if self.crop else self.size
        picture = Picture(np.asarray(_square(pair.read(), pair.box, side)), pair.captions, pair.group)
        if (len(self._cache) + 1) * picture.pixels.nbytes <= MOST_CACHED:
            self._cache[place] = picture
        return picture

    def view(self, picture: Picture, generator: torch.Generator) -> Tensor:
        """A square of a picture, [3, size, size] in [-1, 1]."""
        pixels = picture.pixels
        top, left, mirrored = torch.rand(3, generator=generator).tolist()
        y, x = (int(share * (side - self.size + 1)) for share, side in zip((top, left), pixels.shape[:2], strict=True))
        pixels = pixels[y : y + self.size, x : x + self.size]
        if self.flip and mirrored < 0.5:
            pixels = pixels[:, ::-1]
        return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 127.5 - 1.0

    def captions(self) -> Iterator[str]:
        """Of all pictures; of a lazy sequence that can say them without making pictures, so."""
        of_place = getattr(self.pairs, "captions_of", None)
        for place in range(len(self)):
            yield from of_place(place) if of_place else _as_pair(self.pairs[place], place).captions

    def check_classes(self) -> None:
        """Refuse pictures without a class; of a lazy sequence only the first is looked at.

        Raises:
            ValueError: There are some.
        """
        known = self.pairs if isinstance(self.pairs, tuple) else [_as_pair(self.pairs[0], 0)]
        check_classes(enumerate(known))

    def digest(self) -> str:
        """A name for these pictures and captions; of a lazy sequence some of them speak for all."""
        if isinstance(self.pairs, tuple):
            return digest_of_pairs(self.pairs)
        some = [_as_pair(self.pairs[place], place) for place in range(0, len(self), max(len(self) // _DIGESTED, 1))]
        return hashlib.sha256(f"{len(self)} {digest_of_pairs(some)}".encode()).hexdigest()[:16]


def read_pictures(data: Any, size: int, *, crop: bool, flip: bool, split: str) -> Pictures:
    """Every picture that can be used.

    Args:
        data: A folder as CUB or COCO have it (see ``weft.train.gan.layouts``), or as ``read_pairs`` takes it: with
            ``metadata.jsonl``, rows of ``file_name`` and ``text``, one caption or a list. Or a sequence of (picture,
            captions), or of ``Pair`` where they have classes or boxes, which may make them as they are asked for: one
            that is no list or tuple is not read through.
        size: Pixels of a square.
        crop, flip: As of ``Pictures``.
        split: Of CUB and COCO.

    Raises:
        TypeError: Something else.
        FileNotFoundError: A folder that is not there.
        ValueError: Pictures without captions, unreadable ones, fewer than two.
    """
    if isinstance(data, (str, Path)):
        folder = Path(data)
        if is_cub(folder):
            data = read_cub(folder, split)
        elif is_coco(folder):
            data = read_coco(folder, split)
        else:
            return Pictures(read_pairs(folder, who=WHO), size, crop, flip)
        return Pictures(tuple(data), size, crop, flip)
    of_pairs = isinstance(data, list | tuple) and bool(data) and all(isinstance(item, Pair) for item in data)
    comes_one_by_one = isinstance(data, Sequence) and not isinstance(data, list | tuple)
    if (of_pairs or comes_one_by_one) and len(data) < 2:
        raise ValueError(f"{WHO}: needs at least two pictures with captions; got {len(data)}; give more")
    if of_pairs:
        return Pictures(tuple(map(checked, data)), size, crop, flip)
    if comes_one_by_one:
        _as_pair(data[0], 0)
        return Pictures(data, size, crop, flip)
    return Pictures(read_pairs(data, who=WHO), size, crop, flip)


def check_classes(pictures: Iterable[tuple[int, Picture | Pair]]) -> None:
    """Refuse pictures without a class, given with their places.

    Raises:
        ValueError: There are some.
    """
    lacking = [place for place, picture in pictures if picture.group is None]
    if lacking:
        raise ValueError(
            f"{WHO}: `class_mask` needs pictures with classes, as CUB has; {len(lacking)} have none, the first of "
            f"them number {lacking[0]}; take pictures whose classes are all known, or leave it at None"
        )


def _as_pair(item: Any, place: int) -> Pair:
    """What a sequence gives, as a pair."""
    if isinstance(item, Pair):
        return item
    if not (isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2):
        raise TypeError(f"{WHO}: a picture must come as (picture, captions); number {place} is {type(item).__name__}")
    image, captions = item
    captions = (captions,) if isinstance(captions, str) else tuple(captions or ())
    if not captions or not all(isinstance(text, str) and text.strip() for text in captions):
        raise ValueError(f"{WHO}: every picture needs captions; picture {place} has {captions!r}")
    return Pair(Path(image) if isinstance(image, str) else image, captions, f"picture {place}")


def _square(image: Image.Image, box: tuple[float, float, float, float] | None, side: int) -> Image.Image:
    """The largest square in the middle, or the one around a box as far as the picture goes, ``side`` pixels wide."""
    if box is None:
        shorter = min(image.size)
        left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
        window = (left, top, left + shorter, top + shorter)
    else:
        x, y, width, height = box
        half = max(width, height) * BOX_MARGIN / 2
        across, down = x + width / 2, y + height / 2
        window = (
            int(max(across - half, 0)),
            int(max(down - half, 0)),
            int(min(across + half, image.width)),
            int(min(down + half, image.height)),
        )
    if image.size == (side, side) and box is None:
        return image
    return image.resize((side, side), Image.Resampling.LANCZOS, window)
