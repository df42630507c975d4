"""Training scenes with a mask of every object, for models that paint into holes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import numpy as np
from PIL import Image

from weft.train.task_prompts import MaskedObject, MaskedPicture

from .captions import caption, phrase
from .rendering import coverage, render
from .world import Split, scene

EMPTY = "empty scene"  # the caption of a background, also used for removal


class MaskedScenes(Sequence[MaskedPicture]):
    """Scenes of a seed, each drawn when it is asked for; masks hold every pixel that an object touches."""

    def __init__(
        self,
        count: int,
        seed: int = 0,
        split: Split = "train",
        objects: int | None = None,
        *,
        backgrounds: float = 0.0,
    ) -> None:
        """
        Args:
            count: How many.
            seed, split, objects: As of ``scene``.
            backgrounds: Share of scenes of which nothing but the background is left. A model that has never seen any
                puts an object into the hole of a picture that shows none.
        """
        self._count, self._seed, self._split, self._objects = count, seed, split, objects
        self._backgrounds = backgrounds

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> MaskedPicture: ...

    @overload
    def __getitem__(self, index: slice) -> list[MaskedPicture]: ...

    def __getitem__(self, index: int | slice) -> MaskedPicture | list[MaskedPicture]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(f"MaskedScenes: `index` must be below {self._count}; got {index}")
        number = index % self._count
        drawn = scene(self._seed, number, self._split, self._objects)
        if np.random.default_rng([self._seed, number, 2]).random() < self._backgrounds:
            return MaskedPicture(Image.fromarray(render(replace(drawn, objects=()))), EMPTY)
        things = tuple(
            MaskedObject(
                Image.fromarray(coverage(item.shape, item.x, item.y, item.size) > 0), phrase(item.colour, item.shape)
            )
            for item in drawn.objects
        )
        text = caption(drawn, np.random.default_rng([self._seed, number, 1]))
        return MaskedPicture(Image.fromarray(render(drawn)), text, things)
