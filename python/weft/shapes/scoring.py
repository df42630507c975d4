"""Does an image show what its prompt says? Objects, colours, relations and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from .captions import Prompt
from .reader import Detection, Picture, read
from .vocabulary import RELATIONS

MIN_CONFIDENCE = 0.75  # overlap with the ideal shape below which a blob is no shape at all
RELATION_DISTANCE = 3.0  # pixels that two centres must differ along the axis of a relation word
# what one agreement is worth when objects are matched with detections: a shape says more than a colour
_SHAPE_WORTH, _COLOUR_WORTH = 1.5, 1.0


@dataclass(frozen=True)
class PromptScore:
    """How an image answers a prompt. The tuples follow the prompt's objects and relations.

    Attributes:
        shapes: The shape is there, in any colour.
        colours: The colour is there, on any shape.
        bound: The shape is there in its own colour.
        relations: Both objects are bound and placed as the caption says.
        extras: Detections that answer to no object of the prompt, malformed ones included.
    """

    shapes: tuple[bool, ...]
    colours: tuple[bool, ...]
    bound: tuple[bool, ...]
    relations: tuple[bool, ...]
    extras: int

    @property
    def present(self) -> bool:
        """Every shape of the prompt is there."""
        return all(self.shapes)

    @property
    def correct(self) -> bool:
        """Every object in its colour, every relation as the caption says, and nothing else."""
        return all(self.bound) and all(self.relations) and self.extras == 0


def score(prompt: Prompt, image: Picture | list[Detection]) -> PromptScore:
    """Compare an image, or what ``read`` found in it, with its prompt."""
    found = image if isinstance(image, list) else read(image)
    formed = [item for item in found if item.confidence >= MIN_CONFIDENCE]
    partner = _partners(prompt, formed)

    bound = tuple(i in partner and formed[partner[i]].pair == pair for i, pair in enumerate(prompt.objects))
    return PromptScore(
        shapes=_covered([shape for _, shape in prompt.objects], [item.shape for item in formed]),
        colours=_covered([colour for colour, _ in prompt.objects], [item.colour for item in formed]),
        bound=bound,
        relations=tuple(
            bound[i] and bound[j] and _is_in_relation(formed[partner[i]], word, formed[partner[j]])
            for i, word, j in prompt.relations
        ),
        extras=len(found) - sum(bound),
    )


def _covered(wanted: list[str], available: list[str]) -> tuple[bool, ...]:
    """For each wanted word, whether one of the available ones is left for it."""
    left, covered = Counter(available), []
    for word in wanted:
        covered.append(left[word] > 0)
        left[word] -= 1
    return tuple(covered)


def _partners(prompt: Prompt, found: list[Detection]) -> dict[int, int]:
    """The one-to-one matching of prompt objects with detections that agrees most."""
    if not found:
        return {}
    worth = np.array(
        [
            [_SHAPE_WORTH * (item.shape == shape) + _COLOUR_WORTH * (item.colour == colour) for item in found]
            for colour, shape in prompt.objects
        ]
    )
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if worth[i, j] > 0}


def _is_in_relation(a: Detection, word: str, b: Detection) -> bool:
    rx, ry = RELATIONS[word]
    return (a.x - b.x) * rx + (a.y - b.y) * ry >= RELATION_DISTANCE
