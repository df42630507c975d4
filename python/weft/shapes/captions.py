"""What people say of a scene: training captions in several wordings, and prompts for evaluation in one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from .vocabulary import COLOURS, IMAGE_SIZE, RELATIONS, SHAPES
from .world import PAIRS, Pair, Scene, SceneObject, draw_pairs, relation

# by object count; {0} is the first object named, with its article
TEMPLATES: dict[int, tuple[str, ...]] = {
    1: ("{0}", "{0}", "a picture of {0}", "a photo of {0}", "{0} on a plain background"),
    2: ("{0} and {1}", "{0} and {1}", "{0} next to {1}", "{0} with {1}", "a picture of {0} and {1}"),
    3: ("{0}, {1} and {2}", "{0} and {1} and {2}", "a picture of {0}, {1} and {2}"),
}
RELATION_TEMPLATES: dict[str, tuple[str, ...]] = {
    "left of": ("{0} left of {1}", "{0} to the left of {1}"),
    "right of": ("{0} right of {1}", "{0} to the right of {1}"),
    "above": ("{0} above {1}",),
    "below": ("{0} below {1}",),
}
RELATION_SHARE = 0.5  # of the two-object scenes that have a clear relation
# of the one-object captions: naming only the shape or only the colour teaches what each word means alone
SHAPE_ONLY_SHARE, COLOUR_ONLY_SHARE = 0.08, 0.04


@dataclass(frozen=True)
class Prompt:
    """A text and what an image of it must show.

    Attributes:
        text: The prompt.
        objects: (colour, shape) of every object, in the order of the text.
        relations: (i, word, j): object i is in that relation of ``RELATIONS`` to object j.
    """

    text: str
    objects: tuple[Pair, ...]
    relations: tuple[tuple[int, str, int], ...] = ()


def phrase(colour: str | None, shape: str) -> str:
    """Name an object with its article: "a red ring", "an orange star", "a circle"."""
    words = f"{colour} {shape}" if colour else shape
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(scene: Scene, rng: np.random.Generator, *, is_complete: bool = False) -> str:
    """Describe every object of a scene, in one of the wordings that training uses.

    The order of the objects, the wording and whether a relation is mentioned are drawn from ``rng``; unless
    ``is_complete``, also whether of a single object the colour or the shape is left out.
    """
    items: list[SceneObject] = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    names = [phrase(item.colour, item.shape) for item in items]
    templates = TEMPLATES[len(items)]
    if len(items) == 1 and not is_complete:
        kind = rng.random()
        if kind < SHAPE_ONLY_SHARE:
            names = [phrase(None, items[0].shape)]
        elif kind < SHAPE_ONLY_SHARE + COLOUR_ONLY_SHARE:
            names = [phrase(items[0].colour, "shape")]
    if len(items) == 2:
        word = relation(items[0], items[1])
        if word and rng.random() < RELATION_SHARE:
            templates = RELATION_TEMPLATES[word]
    return templates[rng.integers(len(templates))].format(*names)


def near_misses(scene: Scene, rng: np.random.Generator, count: int) -> list[str]:
    """Captions that are nearly right: a colour or shape that is another, colours exchanged, an object too few or many.

    Args:
        scene: What is drawn.
        rng: Draws what goes wrong, and the wording.
        count: How many.
    """
    return [caption(_with_one_change(scene, rng), rng, is_complete=True) for _ in range(count)]


def _with_one_change(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one thing changed."""
    objects = list(scene.objects)
    first, *others = rng.permutation(len(objects)).tolist()
    one = objects[first]
    ways = ["colour", "shape"]
    if others:
        ways.append("fewer")
        other = objects[others[0]]
        if one.colour != other.colour and one.shape != other.shape:
            ways.append("exchanged")
    if len(objects) < max(TEMPLATES):
        ways.append("more")
    way = ways[rng.integers(len(ways))]
    if way == "fewer":
        del objects[first]
    elif way == "exchanged":
        objects[first], objects[others[0]] = replace(one, colour=other.colour), replace(other, colour=one.colour)
    elif way == "colour":
        objects[first] = replace(one, colour=_another(rng, COLOURS, one.colour))
    elif way == "shape":
        objects[first] = replace(one, shape=_another(rng, SHAPES, one.shape))
    else:
        colour, shape = PAIRS[rng.integers(len(PAIRS))]
        objects.append(replace(one, colour=colour, shape=shape, x=IMAGE_SIZE - one.x, y=IMAGE_SIZE - one.y))
    return replace(scene, objects=tuple(objects))


def _another(rng: np.random.Generator, words: Iterable[str], word: str) -> str:
    left = [other for other in words if other != word]
    return left[rng.integers(len(left))]


def prompts(n: int, objects: int = 1, held_out: bool = False, relations: bool = False, seed: int = 0) -> list[Prompt]:
    """Prompts for evaluation, in the plainest wording: "a red circle", "a red circle and a blue square".

    Args:
        n: How many. The list is a prefix of the list for a larger ``n``.
        objects: Objects a prompt, 1 to 3.
        held_out: True gives prompts that name something training never showed, False none of them.
        relations: Join the two objects by a relation word; needs ``objects=2``.
        seed: Non-negative.

    Raises:
        ValueError: ``n`` is negative, ``objects`` is not 1, 2 or 3, or ``relations`` without two objects.
    """
    if n < 0:
        raise ValueError(f"prompts: `n` must not be negative; got {n}")
    if objects not in TEMPLATES:
        raise ValueError(f"prompts: `objects` must be 1, 2 or 3; got {objects!r}")
    if relations and objects != 2:
        raise ValueError(f"prompts: `relations` needs `objects=2`; got {objects}")
    return [_prompt(np.random.default_rng([seed, i, objects]), objects, held_out, relations) for i in range(n)]


def _prompt(rng: np.random.Generator, objects: int, held_out: bool, with_relation: bool) -> Prompt:
    pairs = draw_pairs(rng, objects, held_out)
    names = [phrase(*pair) for pair in pairs]
    if not with_relation:
        return Prompt(TEMPLATES[objects][0].format(*names), pairs)
    word = list(RELATIONS)[rng.integers(len(RELATIONS))]
    return Prompt(RELATION_TEMPLATES[word][0].format(*names), pairs, ((0, word, 1),))
