"""Where the prompts of a generation have the words whose maps are asked for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from weft.attach import Generation, Prompt, UnplacedError
from weft.methods.attention_maps.token_maps import Token

MISSING = ("warn", "zero", "raise")
Places = list[tuple[int, ...]]  # [images] positions; none where the prompt lacks the word


def find_places(generation: Generation, tokens: Sequence[Token], missing: str) -> list[Places]:
    """Positions of every token in the prompt of every image, [M][images].

    Args:
        missing: What to do about an image whose prompt lacks a word, or has it where its encoder does not read:
            "warn" once of all of them, unless no image has the word; "zero" for nothing; or "raise".

    Raises:
        ValueError: The text is not known, a word is ambiguous, or it is missing and must not be.
    """
    places: list[Places] = []
    lacking: list[str] = []
    for token in tokens:
        found, errors = _find(generation, token)
        if errors and (missing == "raise" or (missing == "warn" and not any(found))):
            raise ValueError(str(errors[0]))
        if errors and missing == "warn":
            texts = (_text(generation.prompt, image) for image, positions in enumerate(found) if not positions)
            lacking.append(f"{token!r} in {', '.join(dict.fromkeys(map(repr, texts)))}")
        places.append(found)
    if lacking:
        warnings.warn(
            f"AttentionMaps: the map of a word is empty where the prompt lacks it: {'; '.join(lacking)}; choose "
            "missing='zero' to have no warning, or missing='raise' to have an error",
            stacklevel=2,
        )
    return places


def _find(generation: Generation, token: Token) -> tuple[Places, list[Exception]]:
    """Positions of one token, and what was wrong where there are none."""
    if isinstance(token, int):
        return [(token,)] * generation.images, []
    if generation.prompt is None:
        raise ValueError(
            f"AttentionMaps: {token!r} cannot be looked up, since the conditioning did not come from "
            "`encode_prompt` of an attached pipeline; attach the pipeline that you call, or give token positions"
        )
    places: Places = []
    errors: list[Exception] = []
    for image in range(generation.images):
        try:
            places.append(generation.prompt.find(token, image))
        except (LookupError, UnplacedError) as error:
            places.append(())
            if not any(_has(prompt, token, image) for prompt in generation.further):
                errors.append(error)
    return places, errors


def _has(prompt: Prompt, token: str, image: int) -> bool:
    """Whether another prompt of the generation has the word, whose own passes will be read."""
    try:
        return bool(prompt.find(token, image))
    except (LookupError, ValueError):
        return False


def _text(prompt: Prompt | None, image: int) -> str:
    assert prompt is not None and prompt.texts is not None
    return prompt.texts[image][0].text
