"""What is painted and what it should become: scenes that training never saw, holes in them, and the truth behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import cv2
import numpy as np

from weft.methods.powerpaint import Task
from weft.shapes.captions import phrase
from weft.shapes.rendering import coverage, render
from weft.shapes.vocabulary import COLOURS, IMAGE_SIZE
from weft.shapes.world import PAIRS, Scene, SceneObject, scene
from weft.train.task_prompts import Hole, box, strokes

GROWTHS = (2, 4)  # pixels that a hole to be filled reaches beyond an object's own outline
# how pictures are extended, in pixels; as many pictures one way as are painted at once
EXTENSIONS: tuple[Mapping[str, int], ...] = (
    {"left": 12, "right": 12},
    {"top": 12, "bottom": 12},
    {"right": 20},
    {"left": 8, "bottom": 16},
)
RUN = 16
OVERLAP = 2  # of an extension with the picture


@dataclass(frozen=True, eq=False)
class Case:
    """One picture to paint in.

    Attributes:
        image: [h, w, 3] uint8, what is given.
        hole: [h, w] bool, of the picture as it will be; for outpainting it lies round ``image``.
        staying: Objects that should be there afterwards, as they were.
        truth: [h, w, 3] uint8, what continues the surroundings.
        asked: (colour, shape) that should be in the hole; None for nothing.
        extension: Side -> pixels, for outpainting.
    """

    image: np.ndarray
    hole: Hole
    staying: tuple[SceneObject, ...]
    truth: np.ndarray
    asked: tuple[str, str] | None = None
    extension: Mapping[str, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What is said of the hole."""
        return "" if self.asked is None else phrase(*self.asked)


def case(task: Task, seed: int, number: int) -> Case:
    """The case of that number; removal and insertion have the same scenes and holes."""
    for attempt in range(1000):
        rng = np.random.default_rng([seed, number, attempt])
        drawn = scene(seed, 1000 * number + attempt, "test")
        made = _MAKERS[task](drawn, number, rng)
        if made is not None:
            return made
    raise AssertionError("scenes without a case must be rare")


def _without_one(
    drawn: Scene, hole_of: Literal["box", "outline"], rng: np.random.Generator
) -> tuple[Case, SceneObject] | None:
    """A hole where one object is, and that object; None where it would hide another one."""
    which = int(rng.integers(len(drawn.objects)))
    gone, staying = drawn.objects[which], drawn.objects[:which] + drawn.objects[which + 1 :]
    thing = _area(gone)
    hole = box(thing, rng) if hole_of == "box" else _filled(thing, rng)
    if _hides(hole, staying):
        return None
    return Case(render(drawn), hole, staying, render(replace(drawn, objects=staying))), gone


def _removal(drawn: Scene, number: int, rng: np.random.Generator) -> Case | None:
    found = _without_one(drawn, "box", rng)
    return None if found is None else found[0]


def _insertion(drawn: Scene, number: int, rng: np.random.Generator) -> Case | None:
    found = _without_one(drawn, "box", rng)
    if found is None:
        return None
    others = [pair for pair in PAIRS if pair != found[1].pair]
    return replace(found[0], asked=others[int(rng.integers(len(others)))])


def _shape(drawn: Scene, number: int, rng: np.random.Generator) -> Case | None:
    found = _without_one(drawn, "outline", rng)
    if found is None:
        return None
    colours = [colour for colour in COLOURS if colour != found[1].colour]
    return replace(found[0], asked=(colours[int(rng.integers(len(colours)))], found[1].shape))


def _context(drawn: Scene, number: int, rng: np.random.Generator) -> Case | None:
    hole = strokes(IMAGE_SIZE, rng)
    return None if _hides(hole, drawn.objects) else Case(render(drawn), hole, drawn.objects, render(drawn))


def _outpainting(drawn: Scene, number: int, rng: np.random.Generator) -> Case | None:
    sides = EXTENSIONS[number // RUN % len(EXTENSIONS)]
    left, right, top, bottom = (sides.get(side, 0) for side in ("left", "right", "top", "bottom"))
    rows, columns = slice(top, IMAGE_SIZE - bottom), slice(left, IMAGE_SIZE - right)
    hole = np.ones((IMAGE_SIZE, IMAGE_SIZE), bool)
    hole[
        top + OVERLAP * (top > 0) : IMAGE_SIZE - bottom - OVERLAP * (bottom > 0),
        left + OVERLAP * (left > 0) : IMAGE_SIZE - right - OVERLAP * (right > 0),
    ] = False
    if _hides(hole, drawn.objects):
        return None
    whole = render(drawn)
    return Case(whole[rows, columns], hole, drawn.objects, whole, extension=sides)


_MAKERS = {
    "removal": _removal,
    "insert": _insertion,
    "shape": _shape,
    "context": _context,
    "outpaint": _outpainting,
}


def _area(item: SceneObject) -> Hole:
    return np.asarray(coverage(item.shape, item.x, item.y, item.size) > 0)


def _hides(hole: Hole, items: tuple[SceneObject, ...]) -> bool:
    """Whether more than half of an object is gone: the rest does not show what it was."""
    return any((_area(item) & hole).sum() > 0.5 * _area(item).sum() for item in items)


def _filled(thing: Hole, rng: np.random.Generator) -> Hole:
    growth = int(rng.integers(*GROWTHS, endpoint=True))
    return cv2.dilate(thing.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=growth).astype(bool)
