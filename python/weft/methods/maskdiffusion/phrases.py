"""The objects that a prompt names: noun phrases with their attributes, their positions, and their nouns."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from weft.methods.maskdiffusion import phrase_words as known
from weft.methods.maskdiffusion.phrase_rules import object_runs

# small pipelines first: noun phrases are all that is wanted of them
_MODELS = ("en_core_web_sm", "en_core_web_md", "en_core_web_lg", "en_core_web_trf")


@dataclass(frozen=True)
class Phrase:
    """One object of a prompt.

    Attributes:
        text: As written in the prompt, article included: "a red circle".
        start, end: Its characters, ``prompt[start:end] == text``.
        head: Its noun, "circle".
    """

    text: str
    start: int
    end: int
    head: str


def find_phrases(text: str, parser: str = "auto") -> tuple[Phrase, ...]:
    """The objects that a prompt names, in order; the same phrase twice is two objects.

    The rules take a run of words that begins with a determiner or a number ("a", "the", "two", "her") and ends before
    punctuation, a conjunction, a preposition or a verb; its noun is its last word. A prompt without any determiner is
    read as a list ("red circle and blue square"). What introduces the picture ("a photo of"), what names a place in it
    or a time ("on a plain background", "at night") and style ("4k, highly detailed, oil painting") is no object.

    What the rules cannot do: they know English and no grammar. They take any word for part of a noun that is on none
    of their lists, so a verb they do not know ends up inside a phrase; they take a place for an object when it has a
    determiner ("in a forest", "on the beach"); they drop objects without one away from a list ("a dog with
    sunglasses"), and know neither who "it" is nor that "two cats" are two. Where that matters, name phrases yourself.

    Args:
        text: The prompt.
        parser: "rules"; "spacy" for the noun chunks of an installed English pipeline of spaCy; "auto" for spaCy where
            it and a pipeline are installed, else the rules; "and" for the two halves around the first " and ", as the
            released code of MaskDiffusion does.

    Returns:
        The phrases; empty if there are none.

    Raises:
        TypeError: ``text`` is not a string.
        ValueError: An unknown ``parser``.
        ImportError: "spacy" without spaCy or without an English pipeline. Nothing is ever downloaded.
    """
    if not isinstance(text, str):
        raise TypeError(f"find_phrases: `text` must be one prompt; got {type(text).__name__}")
    if parser not in _PARSERS:
        raise ValueError(f"find_phrases: `parser` must be one of {', '.join(map(repr, _PARSERS))}; got {parser!r}")
    return _PARSERS[parser](text)


def _by_rules(text: str) -> tuple[Phrase, ...]:
    def phrase(start: int, end: int, head: int) -> Phrase:
        return Phrase(text[start:end], start, end, text[head:end])

    return tuple(phrase(words[0].start, words[-1].end, words[-1].start) for words in object_runs(text))


def _by_and(text: str) -> tuple[Phrase, ...]:
    # \S so that the spaces around a half are no part of it
    first = re.search(" and ", text)
    bounds = [(0, len(text))] if first is None else [(0, first.start()), (first.end(), len(text))]
    found = [re.compile(r"\S(?:.*\S)?", re.DOTALL).search(text, *bound) for bound in bounds]
    return tuple(Phrase(half[0], *half.span(), half[0].split()[-1]) for half in found if half is not None)


def _by_spacy(text: str) -> tuple[Phrase, ...]:
    chunks = list(_spacy_pipeline()(text).noun_chunks)
    return tuple(
        Phrase(chunk.text, chunk.start_char, chunk.end_char, chunk.root.text) for chunk in chunks if _is_object(chunk)
    )


def _is_object(chunk: Any) -> bool:
    """Whether a noun chunk of spaCy names something to draw: no pronoun, no picture of it, no place, time or style."""
    words = [token.text.lower() for token in chunk]
    head = chunk.root.text.lower()
    following = chunk.doc[chunk.end].text.lower() if chunk.end < len(chunk.doc) else ""
    introduces = head in known.PICTURES and following in known.SHOWING
    is_style = words[0] not in known.DETERMINERS and not known.STYLE.isdisjoint(words)
    return not (chunk.root.pos_ == "PRON" or introduces or is_style or head in known.NOT_OBJECTS)


def _by_the_best(text: str) -> tuple[Phrase, ...]:
    try:
        _spacy_pipeline()
    except ImportError:
        return _by_rules(text)
    return _by_spacy(text)


@lru_cache(maxsize=1)
def _spacy_pipeline() -> Callable[[str], Any]:
    try:
        import spacy
    except ImportError as error:
        raise ImportError(
            f"find_phrases: parser 'spacy' needs spaCy; it cannot be imported ({error}); pip install spacy, "
            "or use parser='rules'"
        ) from error
    installed = spacy.util.get_installed_models()
    english = [name for name in _MODELS if name in installed] or sorted(n for n in installed if n.startswith("en_"))
    if not english:
        raise ImportError(
            "find_phrases: parser 'spacy' needs an English pipeline; none is installed; "
            "run `python -m spacy download en_core_web_sm`, or use parser='rules'"
        )
    pipeline: Callable[[str], Any] = spacy.load(english[0], exclude=["ner", "lemmatizer"])
    return pipeline


_PARSERS: dict[str, Callable[[str], tuple[Phrase, ...]]] = {
    "auto": _by_the_best,
    "spacy": _by_spacy,
    "rules": _by_rules,
    "and": _by_and,
}
