"""Captioned pictures to evaluate on: scenes that nothing was trained on, or some of a folder's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from weft.evaluation.words import SHAPES, given_folder
from weft.shapes.captioned_scenes import CaptionedScenes
from weft.shapes.world import Split
from weft.train.gan import Pictures, is_coco, is_cub, read_coco, read_cub
from weft.train.pictures import Pair, read_pairs

Layout = Literal["auto", "imagefolder", "cub", "coco"]
SEED = 41_000  # of the first collection of scenes; training and the other measurements draw from other ones
_DRAWN = 5  # captions drawn for each that is wanted, for many of them are the same


def shapes_pictures(count: int, captions: int, *, seed: int = 0, split: Split = "train") -> list[Pair]:
    """Scenes of the shapes world, each with different wordings of one meaning.

    Args:
        count: How many.
        captions: Wordings of each, at most; of a single object there are four.
        seed: Of the collection; other ones have other scenes.
        split: "train" scenes are like those of training but others; every one of "test" shows what training never did.
    """
    scenes = CaptionedScenes(count, SEED + seed, captions=_DRAWN * captions, split=split)
    return [
        Pair(image, tuple(dict.fromkeys(texts))[:captions], f"scene {number}")
        for number, (image, texts) in enumerate(scenes[:])
    ]


@dataclass(frozen=True, eq=False)
class Square:
    """A picture of a folder, read and cut when its pixels are asked for.

    Attributes:
        pictures: All of the folder, and how they are cut.
        place: Of this one.
    """

    pictures: Pictures
    place: int

    @property
    def captions(self) -> tuple[str, ...]:
        return tuple(self.pictures.pairs[self.place].captions)

    @property
    def group(self) -> int | None:
        """Number of its class; None where it has none."""
        group: int | None = self.pictures.pairs[self.place].group
        return group

    def read(self) -> Image.Image:
        """RGB. Raises FileNotFoundError or ValueError where it cannot be read."""
        return Image.fromarray(self.pictures[self.place].pixels)


@dataclass(frozen=True, eq=False)
class Squares(Sequence[Square]):
    """Pictures of a folder in an order of their own.

    Attributes:
        pictures: All of them.
        chosen: Places of those that are meant.
    """

    pictures: Pictures
    chosen: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return replace(self, chosen=self.chosen[index])
        return Square(self.pictures, self.chosen[index])


def folder_pictures(
    folder: Path, size: int, count: int, *, layout: Layout = "auto", split: str | None = None, seed: int = 0
) -> Squares:
    """The pictures of a folder in random order: of each the largest square in the middle, or that around a box.

    Args:
        folder: As ``weft.train.fit_gan`` takes it.
        size: Pixels of a square, by Pillow's Lanczos filter.
        count: How many there must be.
        layout: How the folder is laid out: "imagefolder" with ``metadata.jsonl`` or a text beside every picture,
            "cub" or "coco"; "auto" looks.
        split: Of CUB and COCO; if not given, "test" of the one and "val" of the other.
        seed: Of the order.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: Pictures without captions, unreadable ones, or fewer than ``count``.
    """
    folder = given_folder(folder, [SHAPES], option="--data", what="pictures with captions")
    if layout == "auto":
        layout = "cub" if is_cub(folder) else "coco" if is_coco(folder) else "imagefolder"
    if layout == "imagefolder":
        pairs: Sequence[Pair] = read_pairs(folder, who="evaluate")
    elif layout == "cub":
        pairs = read_cub(folder, split or "test")
    else:
        pairs = read_coco(folder, split or "val")
    pictures = Pictures(pairs, size, crop=False, flip=False)
    if len(pictures) < count:
        raise ValueError(
            f"evaluate: --count {count} needs as many pictures with captions; {folder} has {len(pictures)}"
        )
    chosen = np.random.default_rng(seed).permutation(len(pictures))
    return Squares(pictures, tuple(map(int, chosen)))
