"""Where the prompts of a generation name the concepts of residuals."""

from __future__ import annotations

from collections.abc import Sequence

from weft.attach import Generation, Prompt
from weft.methods.residual import Residual

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
    found = tuple(
        tuple(_positions(prompt, image, residual) for residual in residuals) for image in range(generation.images)
    )
    if not any(positions for concepts in found for positions in concepts):
        phrases = ", ".join(repr(residual.phrase) for residual in residuals)
        texts = list(dict.fromkeys(image_texts[0].text for image_texts in prompt.texts))
        raise ValueError(
            f"LocalizedResiduals: no prompt names a concept; they are written {phrases}; the prompts are "
            f"{', '.join(map(repr, texts))}"
        )
    return found


def _positions(prompt: Prompt, image: int, residual: Residual) -> Positions:
    """Identifier and class word wherever they stand together; else identifiers, each with the class word after it.

    So "a V* dog beside a dog" means the first dog alone, and "a V* sleeping dog" is understood.
    """
    together = prompt.occurrences(residual.phrase, image)
    if together:
        return tuple(position for place in together for position in place)
    identifiers = prompt.occurrences(residual.identifier, image)
    class_words = prompt.occurrences(residual.class_word, image)
    chosen: dict[int, None] = {}
    for identifier in identifiers:
        following = [place for place in class_words if place[0] > identifier[-1]]
        chosen |= dict.fromkeys((*identifier, *(following[0] if following else ())))
    return tuple(chosen)
