"""What a caption of the shapes world says, read back from its words: the reader of texts beside that of images."""

from __future__ import annotations

import re
from itertools import pairwise

from weft.shapes.captions import Prompt
from weft.shapes.vocabulary import COLOURS, RELATIONS, SHAPES
from weft.shapes.world import Pair

_OBJECT = re.compile(rf"\b({'|'.join(COLOURS)})\s+({'|'.join(SHAPES)})\b")
_ANY_SHAPE = re.compile(rf"\b(?:{'|'.join(SHAPES)}|shape)\b")
_RELATION = re.compile(rf"\b({'|'.join(RELATIONS)})\b")


def prompt_of(text: str) -> Prompt | None:
    """The objects and relations that ``text`` names, or None where it is no complete caption of the shapes world.

    A caption is complete when every shape has its colour. Words between two objects that say where one is, such
    as "to the left of", hold for these two.
    """
    words = text.lower()
    named = list(_OBJECT.finditer(words))
    if not named or len(named) != len(_ANY_SHAPE.findall(words)):
        return None
    relations = []
    for number, (one, other) in enumerate(pairwise(named)):
        if relation := _RELATION.search(words, one.end(), other.start()):
            relations.append((number, relation[1], number + 1))
    return Prompt(text, tuple((found[1], found[2]) for found in named), tuple(relations))


def objects_of(text: str) -> tuple[Pair, ...] | None:
    """(colour, shape) of every object that ``text`` names, in an order of their own; None as of ``prompt_of``."""
    prompt = prompt_of(text)
    return None if prompt is None else tuple(sorted(prompt.objects))
