"""What is drawn and where it should be: prompts, and a box for each of their objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.shapes.captions import Prompt, phrase, prompts
from weft.shapes.vocabulary import IMAGE_SIZE

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

_HALF, _WHOLE = IMAGE_SIZE // 2, IMAGE_SIZE
LAYOUTS: dict[int, tuple[tuple[Box, ...], ...]] = {
    2: (
        ((0, 0, _HALF, _WHOLE), (_HALF, 0, _WHOLE, _WHOLE)),
        ((0, 0, _WHOLE, _HALF), (0, _HALF, _WHOLE, _WHOLE)),
    ),
    3: (((0, 0, _HALF, _HALF), (_HALF, 0, _WHOLE, _HALF), (0, _HALF, _WHOLE, _WHOLE)),),
}


@dataclass(frozen=True)
class Case:
    """A prompt, and the boxes of its objects in the order of the text."""

    prompt: Prompt
    boxes: tuple[Box, ...]

    @property
    def named(self) -> dict[str, Box]:
        """The boxes by phrase."""
        return {phrase(*pair): box for pair, box in zip(self.prompt.objects, self.boxes, strict=True)}


def cases(count: int, objects: int, seed: int, *, held_out: bool = True) -> list[Case]:
    """The first ``count`` cases of a seed; which object goes where is drawn, whatever the text says first."""
    made = []
    for number, prompt in enumerate(prompts(count, objects, held_out=held_out, seed=seed)):
        rng = np.random.default_rng([seed, number, objects])
        layout = LAYOUTS[objects][rng.integers(len(LAYOUTS[objects]))]
        made.append(Case(prompt, tuple(layout[place] for place in rng.permutation(objects))))
    return made
