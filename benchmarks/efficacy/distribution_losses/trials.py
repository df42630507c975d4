"""What shows whether pictures of one meaning agree: one noise under several wordings, one wording from several noises.

Of a prompt all pictures are adjacent, and it counts once: pictures of one prompt are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from benchmarks.efficacy.readings import Measures, Readings
from benchmarks.efficacy.soft_tokens.summary import diversity
from weft.shapes.captions import TEMPLATES, Prompt, phrase, prompts
from weft.shapes.reader import read
from weft.shapes.scoring import MIN_CONFIDENCE, score

BASE, TOKENS = "base", "soft tokens"
WORDINGS = "one noise, {} wordings"
NOISES = "one wording, {} noises"
MEASURES = Measures(
    shares={},
    levels={
        "bound": "all objects bound, %",
        "correct": "and nothing extra, %",
        "agreement": "two pictures show the same, %",
        "spread": "spread of pictures",
    },
    reference=TOKENS,
    undiffering=(BASE,),
)


@dataclass(frozen=True)
class Views:
    """Several pictures of every prompt.

    Attributes:
        name: How the results call it.
        prompts: How many, of two objects.
        each: Pictures of a prompt.
        rewords: Whether these have one noise and as many wordings; otherwise one wording and as many noises.
        held_out: Whether they name what training never showed.
    """

    name: str
    prompts: int
    each: int
    rewords: bool
    held_out: bool = True

    def items(self, seed: int) -> list[tuple[Prompt, int]]:
        """The prompt of every picture, and the number of its noise."""
        found = []
        for number, prompt in enumerate(prompts(self.prompts, 2, held_out=self.held_out, seed=seed)):
            texts = wordings(prompt) if self.rewords else [prompt] * self.each
            for which, text in enumerate(texts[: self.each]):
                # noises of the two kinds of trial are different ones
                found.append((text, self.each * number + (0 if self.rewords else which) + 100_000 * self.rewords))
        return found


def wordings(prompt: Prompt) -> list[Prompt]:
    """What else is said of two objects, in training's words: the plainest first, then both orders of each template."""
    names = [phrase(*pair) for pair in prompt.objects]
    texts = dict.fromkeys(
        template.format(*order) for template in dict.fromkeys(TEMPLATES[2]) for order in (names, names[::-1])
    )
    return [Prompt(text, prompt.objects) for text in texts]


def readings(images: np.ndarray, items: Sequence[tuple[Prompt, int]], each: int) -> Readings:
    """Every measure of every prompt.

    Args:
        images: [prompts * each, h, w, 3] uint8.
        items: Prompt and noise of every picture.
        each: Pictures of a prompt.

    Returns:
        Of a prompt: the shares of its pictures that show all objects in their colours ("bound"), and nothing else
        ("correct"); of pairs of them in which the reader sees the same objects, whatever was asked ("agreement"), in
        percent; and "spread", the mean distance between two, as ``diversity``.
    """
    found: Readings = {name: [] for name in ("bound", "correct", "agreement")}
    for first in range(0, len(images), each):
        seen = [read(image) for image in images[first : first + each]]
        verdicts = [score(prompt, objects) for (prompt, _), objects in zip(items[first:], seen, strict=False)]
        shown = [
            sorted((item.colour, item.shape) for item in objects if item.confidence >= MIN_CONFIDENCE)
            for objects in seen
        ]
        pairs = [one == other for one, other in combinations(shown, 2)]
        found["bound"].append(100 * float(np.mean([all(verdict.bound) for verdict in verdicts])))
        found["correct"].append(100 * float(np.mean([verdict.correct for verdict in verdicts])))
        found["agreement"].append(100 * float(np.mean(pairs)))
    found["spread"] = diversity(images, each)
    return found
