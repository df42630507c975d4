"""Where the prompts of a generation name the concepts of residuals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from weft.attach import Generation, Prompt
from weft.methods.residuals.residual import Residual

Positions = tuple[int, ...]  # of tokens, the start token included in the count


def find_concepts(generation: Generation, residuals: Sequence[Residual]) -> tuple[tuple[Positions, ...], ...]:
    """The tokens of every concept in the prompt of every image, [images][concepts]; none where it is not named.

    Raises:
        ValueError: The prompts are not known as text, or none of them names a concept.
    """
    prompt = generation.prompt
    if prompt is None or prompt.texts is None:
        raise ValueError(
            "LocalizedResiduals: the words of the prompt are not known, so the attention to a concept cannot be read; "
            "call the attached pipeline with `prompt`, or use localize='none', masks or boxes"
        )
    found = tuple(_positions(prompt, image, residuals) for image in range(generation.images))
    if not any(positions for concepts in found for positions in concepts):
        phrases = ", ".join(repr(residual.phrase) for residual in residuals)
        texts = list(dict.fromkeys(image_texts[0].text for image_texts in prompt.texts))
        limit = prompt.texts[0][0].limit
        raise ValueError(
            f"LocalizedResiduals: no prompt names a concept among the first {limit} tokens, all that the text encoder "
            f"reads; they are written {phrases}; the prompts are {', '.join(map(repr, texts))}"
        )
    return found


def _positions(prompt: Prompt, image: int, residuals: Sequence[Residual]) -> tuple[Positions, ...]:
    """The tokens of every concept in the prompt of ``image``.

    Identifier and class word wherever they are adjacent. An identifier alone goes to the concept whose
    class word follows it first, with that word: "a V* dog beside a dog" means the first dog alone, "a V* sleeping dog"
    is understood, and where dog and cat are both V*, each V* is of one of them. With no class word behind it an
    identifier names its concept if it is the identifier of no other.
    """
    together = [prompt.occurrences(residual.phrase, image) for residual in residuals]
    chosen: list[dict[int, None]] = [
        dict.fromkeys(position for place in places for position in place) for places in together
    ]
    taken = {position for positions in chosen for position in positions}
    for identifier in dict.fromkeys(residual.identifier for residual in residuals):
        same_identifier = [number for number, residual in enumerate(residuals) if residual.identifier == identifier]
        words = [(place, k) for k in same_identifier for place in prompt.occurrences(residuals[k].class_word, image)]
        places = prompt.occurrences(identifier, image)
        for place, following in itertools.zip_longest(places, places[1:]):
            if taken.intersection(place):
                continue
            end = None if following is None else following[0]
            free = [x for x in words if not taken.intersection(x[0])]
            behind = [x for x in free if x[0][0] > place[-1] and (end is None or x[0][0] < end)]
            if behind:
                word, owner = min(behind)
                chosen[owner] |= dict.fromkeys((*place, *word))
            elif len(same_identifier) == 1:
                chosen[same_identifier[0]] |= dict.fromkeys(place)
    return tuple(tuple(positions) for positions in chosen)
