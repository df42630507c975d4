"""Training scenes with several captions each, which say the same in other words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from PIL import Image

from .captions import caption
from .rendering import render
from .world import Split, scene

Captioned = tuple[Image.Image, tuple[str, ...]]


class CaptionedScenes(Sequence[Captioned]):
    """Scenes of a seed with their captions, each drawn when it is asked for."""

    def __init__(
        self, count: int, seed: int = 0, captions: int = 8, split: Split = "train", objects: int | None = None
    ) -> None:
        """
        Args:
            count: How many.
            captions: Wordings of each, drawn independently; a scene of one object has only a few.
            seed, split, objects: As of ``scene``.

        Raises:
            ValueError: No scene, or no caption.
        """
        if count < 1 or captions < 1:
            raise ValueError(f"CaptionedScenes: `count` and `captions` must be at least 1; got {count} and {captions}")
        self._count, self._seed, self._captions, self._split, self._objects = count, seed, captions, split, objects

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Captioned: ...

    @overload
    def __getitem__(self, index: slice) -> list[Captioned]: ...

    def __getitem__(self, index: int | slice) -> Captioned | list[Captioned]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._count))]
        number = self._number(index)
        drawn = scene(self._seed, number, self._split, self._objects)
        return Image.fromarray(render(drawn)), self.captions_of(number)

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Captions of a scene, which need no picture; all of them name every object by colour and shape."""
        number = self._number(index)
        drawn = scene(self._seed, number, self._split, self._objects)
        rng = np.random.default_rng([self._seed, number, 2])
        return tuple(caption(drawn, rng, is_complete=True) for _ in range(self._captions))

    def _number(self, index: int) -> int:
        if not -self._count <= index < self._count:
            raise IndexError(f"CaptionedScenes: `index` must be below {self._count}; got {index}")
        return index % self._count
