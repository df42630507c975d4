"""The objects of every prompt: their phrases, their tokens, and where their user wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from weft.attach import Generation, Prompt
from weft.methods._masks import check_mask_size, is_mask, read_mask
from weft.methods.maskdiffusion.phrases import find_phrases

MOST_OBJECTS = 16
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Region = Box | Tensor  # or a mask, bool [h, w] of the image's size


@dataclass(frozen=True)
class Words:
    """The objects of one image.

    Attributes:
        phrases: As their user names them, "a red circle#2" included.
        texts: What each of them says, without the number; none where the image is left alone.
        spans: Token positions of each; the last is its head. None where the image is left alone.
        tail: First position of the end of the text and its padding.
        boxes: Where each goes, in a box or a mask; None to look for it.
    """

    phrases: tuple[str, ...]
    texts: tuple[str, ...]
    spans: tuple[tuple[int, ...], ...]
    tail: int
    boxes: tuple[Region, ...] | None


def find_words(
    generation: Generation,
    phrases: tuple[Any, ...] | None,
    boxes: Mapping[str, Region] | None,
    parser: str,
    tail_from: int = 1,
) -> tuple[Words, ...]:
    """Find the objects of every image in its prompt.

    Raises:
        ValueError: The text is not known, a phrase is missing, cut off, ambiguous or overlaps another, there are too
            many of them, or a box lies outside the image.
    """
    prompt = generation.prompt
    if prompt is None:
        raise ValueError(
            "MaskDiffusion: the conditioning did not come from `encode_prompt` of an attached pipeline, so its words "
            "are not known; attach the pipeline that you call"
        )
    if prompt.texts is None:
        raise ValueError(
            "MaskDiffusion: the pipeline was given `prompt_embeds` without their text; take them from "
            "`pipe.encode_prompt` after attaching, or give `prompt`"
        )
    chosen = boxes if boxes is not None and phrases is None else phrases
    for phrase, region in (boxes or {}).items():
        _check_inside(phrase, region, generation.image_size)
    return tuple(
        _words(prompt, image, _phrases_of(prompt, image, chosen, parser), boxes, tail_from)
        for image in range(generation.images)
    )


def left_alone(words: Words) -> Words:
    """The same image with its objects known by name only."""
    return replace(words, texts=(), spans=())


def _phrases_of(prompt: Prompt, image: int, phrases: Any, parser: str) -> tuple[str, ...]:
    """The phrases of one image: those given for all, those given for its prompt, or those found in it."""
    assert prompt.texts is not None
    if phrases is None:
        return _found(prompt.texts[image][0].text, parser)
    listed = tuple(phrases)
    if all(isinstance(phrase, str) for phrase in listed):
        return listed
    if prompt.images % len(listed):
        raise ValueError(
            f"MaskDiffusion: `phrases` must have one sequence a prompt; got {len(listed)} for {prompt.images} images"
        )
    return tuple(listed[image * len(listed) // prompt.images])


def _found(text: str, parser: str) -> tuple[str, ...]:
    """Noun phrases of a prompt, numbered where one occurs twice."""
    found = [phrase.text for phrase in find_phrases(text, parser)]
    return tuple(
        f"{phrase}#{found[: place + 1].count(phrase)}" if found.count(phrase) > 1 else phrase
        for place, phrase in enumerate(found)
    )


def _words(
    prompt: Prompt, image: int, phrases: tuple[str, ...], boxes: Mapping[str, Region] | None, tail_from: int
) -> Words:
    if len(phrases) > MOST_OBJECTS:
        raise ValueError(
            f"MaskDiffusion: at most {MOST_OBJECTS} objects fit one image; got {len(phrases)}: {', '.join(phrases)}"
        )
    if boxes is not None and (unknown := [phrase for phrase in phrases if phrase not in boxes]):
        raise ValueError(f"MaskDiffusion: `boxes` must have every phrase or be left out; {unknown[0]!r} has none")
    spans: list[tuple[int, ...]] = []
    for phrase in phrases:
        try:
            span = prompt.find(phrase, image)
        except LookupError as error:
            raise ValueError(f"{error}; `phrases` must be parts of the prompt") from None
        for other, taken in zip(phrases, spans, strict=False):
            if set(span) & set(taken):
                raise ValueError(f"MaskDiffusion: phrases must not overlap; {phrase!r} shares tokens with {other!r}")
        spans.append(span)
    return Words(
        phrases=phrases,
        texts=tuple(_without_number(phrase, prompt, image) for phrase in phrases),
        spans=tuple(spans),
        tail=prompt.length(image) - tail_from,
        boxes=None if boxes is None else tuple(boxes[phrase] for phrase in phrases),
    )


def _without_number(phrase: str, prompt: Prompt, image: int) -> str:
    assert prompt.texts is not None
    bare, mark, number = phrase.rpartition("#")
    return bare if mark and number.isdigit() and not prompt.texts[image][0].positions(phrase) else phrase


def checked_phrases(phrases: Any) -> tuple[Any, ...] | None:
    """``phrases`` as given to the control: strings, or sequences of strings.

    Raises:
        TypeError: Something else.
        ValueError: None at all, an empty one, or one given twice.
    """
    if phrases is None:
        return None
    if isinstance(phrases, str) or not isinstance(phrases, Sequence):
        raise TypeError(
            f"MaskDiffusion: `phrases` must be a sequence of phrases; got {phrases!r}; write [{phrases!r}]"
        )
    if not phrases:
        raise ValueError("MaskDiffusion: `phrases` must name an object; leave it out to have them found")
    nested = not isinstance(phrases[0], str)
    for group in phrases if nested else [phrases]:
        if isinstance(group, str) or not isinstance(group, Sequence):
            raise TypeError(f"MaskDiffusion: `phrases` must be all strings or all sequences of strings; got {group!r}")
        for phrase in group:
            if not isinstance(phrase, str):
                raise TypeError(f"MaskDiffusion: a phrase must be a string; got {phrase!r}")
            if not phrase.strip():
                raise ValueError(f"MaskDiffusion: a phrase must not be empty; got {phrase!r}")
            if list(group).count(phrase) > 1:
                raise ValueError(
                    f"MaskDiffusion: phrases must differ; got {phrase!r} twice; write {phrase + '#1'!r} and "
                    f"{phrase + '#2'!r}"
                )
    return tuple(tuple(group) for group in phrases) if nested else tuple(phrases)


def checked_boxes(boxes: Any, phrases: tuple[Any, ...] | None) -> dict[str, Region] | None:
    """``boxes`` as given to the control.

    Raises:
        TypeError: Not a mapping of phrases to boxes or masks.
        ValueError: An empty mapping, box or mask, or not the phrases that were given.
    """
    if boxes is None:
        return None
    if not isinstance(boxes, Mapping):
        raise TypeError(
            f"MaskDiffusion: `boxes` must map phrases to (left, top, right, bottom); got {type(boxes).__name__}"
        )
    if not boxes:
        raise ValueError("MaskDiffusion: `boxes` must have a box for every phrase; got none; leave it out")
    regions = {phrase: _checked_region(phrase, region) for phrase, region in boxes.items()}
    if phrases is not None:
        named = {name for group in phrases for name in ([group] if isinstance(group, str) else group)}
        if named != set(boxes):
            odd = sorted(named ^ set(boxes))
            raise ValueError(f"MaskDiffusion: `boxes` must be for the phrases, all of them; {odd[0]!r} is in one only")
    return regions


def _checked_region(phrase: str, region: Any) -> Region:
    if is_mask(region):
        mask = read_mask(region, phrase, who="MaskDiffusion") >= 0.5
        if not bool(mask.any()):
            raise ValueError(f"MaskDiffusion: the mask of {phrase!r} must have a pixel inside; it has none")
        return mask
    sides = tuple(region) if isinstance(region, Sequence) else ()
    if len(sides) != 4 or not all(isinstance(side, (int, float)) for side in sides):
        raise TypeError(
            f"MaskDiffusion: the box of {phrase!r} must be (left, top, right, bottom), or a mask (PIL image, array or "
            f"tensor [h, w]); got {region!r}"
        )
    left, top, right, bottom = (float(side) for side in sides)
    if not (left < right and top < bottom):
        raise ValueError(f"MaskDiffusion: the box of {phrase!r} must have left < right and top < bottom; got {region}")
    return left, top, right, bottom


def _check_inside(phrase: str, region: Region, image_size: tuple[int, int]) -> None:
    if isinstance(region, Tensor):
        check_mask_size(region, phrase, image_size, who="MaskDiffusion")
        return
    height, width = image_size
    left, top, right, bottom = box = region
    if left < 0 or top < 0 or right > width or bottom > height:
        raise ValueError(
            f"MaskDiffusion: the box of {phrase!r} must lie inside the image of {width} x {height} pixels; got "
            f"(left, top, right, bottom) = {box}"
        )
