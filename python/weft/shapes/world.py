"""Scenes: one to three coloured shapes on a plain background, drawn from a seed.

A scene is a pure function of (seed, index, split, objects); nothing here keeps state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

import numpy as np

from .vocabulary import COLOURS, HELD_OUT_COMBINATIONS, HELD_OUT_PAIRS, IMAGE_SIZE, RELATIONS, SHAPES

Split = Literal["train", "test"]
Rgb = tuple[int, int, int]
Pair = tuple[str, str]  # (colour, shape)

PAIRS: tuple[Pair, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)

OBJECT_COUNT_SHARES = (0.35, 0.40, 0.25)  # of one, two and three objects
SIZE_RANGES = {1: (9.0, 15.0), 2: (8.0, 13.0), 3: (8.0, 11.0)}  # nominal radius in pixels, by object count
GAP = 2.5  # pixels between the circles of nominal radius of two objects
MARGIN = 1.0  # pixels between such a circle and the border
COLOUR_JITTER = 10  # largest change of a channel, in levels
BACKGROUND_RANGE = (18, 100)  # grey level
BACKGROUND_TINT = 12  # largest departure of a channel from that grey
# an axis must dominate this much before we call a pair "left of" or "above"; between the two it has no relation
RELATION_DOMINANCE = 1.5


@dataclass(frozen=True)
class SceneObject:
    """One shape of a scene.

    Attributes:
        shape: One of ``SHAPES``.
        colour: One of ``COLOURS``.
        x, y: Centre in pixels; (0, 0) is the outer corner of the top left pixel.
        size: Nominal radius in pixels; the farthest corner of any shape, a triangle's, lies at 1.19 of it.
        rgb: The jittered colour that is really drawn, 0-255.
    """

    shape: str
    colour: str
    x: float
    y: float
    size: float
    rgb: Rgb

    @property
    def pair(self) -> Pair:
        """(colour, shape), what a caption says of the object."""
        return self.colour, self.shape


@dataclass(frozen=True)
class Scene:
    """Objects that do not overlap, on a background of one colour (0-255)."""

    objects: tuple[SceneObject, ...]
    background: Rgb


def is_held_out(pairs: list[Pair] | tuple[Pair, ...]) -> bool:
    """Whether objects with these (colour, shape) pairs are kept away from training."""
    if any(pair in HELD_OUT_PAIRS for pair in pairs):
        return True
    return any(frozenset(two) in HELD_OUT_COMBINATIONS for two in combinations(pairs, 2))


def relation(a: SceneObject, b: SceneObject) -> str | None:
    """The relation word that puts ``a`` clearly to one side of ``b``, or None on a diagonal."""
    dx, dy = a.x - b.x, a.y - b.y
    for word, (rx, ry) in RELATIONS.items():
        along, across = dx * rx + dy * ry, abs(dx * ry) + abs(dy * rx)
        if along > RELATION_DOMINANCE * across:
            return word
    return None


def draw_pairs(rng: np.random.Generator, objects: int, held_out: bool) -> tuple[Pair, ...]:
    """Draw distinct (colour, shape) pairs for one scene or prompt.

    Args:
        rng: Source of randomness.
        objects: How many, 1 to 3.
        held_out: True draws something training never shows, False only what it may show.
    """
    while True:
        chosen: list[Pair] = []
        if held_out and objects > 1 and rng.random() < 0.5:
            combination = sorted(HELD_OUT_COMBINATIONS, key=sorted)[rng.integers(len(HELD_OUT_COMBINATIONS))]
            chosen = sorted(combination)
        elif held_out:
            chosen = [sorted(HELD_OUT_PAIRS)[rng.integers(len(HELD_OUT_PAIRS))]]
        rest = [pair for pair in PAIRS if pair not in chosen and (held_out or pair not in HELD_OUT_PAIRS)]
        chosen += [rest[i] for i in rng.choice(len(rest), objects - len(chosen), replace=False)]
        if is_held_out(chosen) == held_out:
            return tuple(chosen[i] for i in rng.permutation(objects))


def scene(seed: int, index: int, split: Split = "train", objects: int | None = None) -> Scene:
    """Draw the scene number ``index`` of a split.

    Args:
        seed: Non-negative seed of the whole collection.
        index: Non-negative number of the scene in it.
        split: "train" never shows a held-out pair or combination; every scene of "test" shows at least one.
        objects: 1, 2 or 3; None draws the count as well.

    Raises:
        ValueError: An argument is outside its range.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"scene: `seed` and `index` must not be negative; got {seed} and {index}")
    if split not in get_args(Split):
        raise ValueError(f"scene: `split` must be one of {get_args(Split)}; got {split!r}")
    if objects is not None and objects not in SIZE_RANGES:
        raise ValueError(f"scene: `objects` must be 1, 2, 3 or None; got {objects!r}")

    rng = np.random.default_rng([seed, index, get_args(Split).index(split)])
    count = objects or int(rng.choice(len(OBJECT_COUNT_SHARES), p=OBJECT_COUNT_SHARES)) + 1
    pairs = draw_pairs(rng, count, held_out=split == "test")
    places = _draw_places(rng, count)
    grey = int(rng.integers(*BACKGROUND_RANGE, endpoint=True))
    return Scene(
        objects=tuple(
            SceneObject(shape, colour, x, y, size, _jittered(rng, COLOURS[colour], COLOUR_JITTER))
            for (colour, shape), (x, y, size) in zip(pairs, places, strict=True)
        ),
        background=_jittered(rng, (grey, grey, grey), BACKGROUND_TINT),
    )


def _draw_places(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """(x, y, size) of objects whose nominal circles keep ``GAP`` from each other and ``MARGIN`` from the border."""
    while True:
        places: list[tuple[float, float, float]] = []
        for size in rng.uniform(*SIZE_RANGES[count], count):
            low, high = size + MARGIN, IMAGE_SIZE - size - MARGIN
            for x, y in rng.uniform(low, high, (20, 2)):
                if all(math.hypot(x - px, y - py) > size + other + GAP for px, py, other in places):
                    places.append((float(x), float(y), float(size)))
                    break
        # a large first object can leave no space; a fresh start keeps the sizes unbiased enough
        if len(places) == count:
            return places


def _jittered(rng: np.random.Generator, rgb: Rgb, amount: int) -> Rgb:
    red, green, blue = np.clip(np.array(rgb) + rng.integers(-amount, amount, 3, endpoint=True), 0, 255)
    return int(red), int(green), int(blue)
