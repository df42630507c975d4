"""Whole words in a text, by its characters."""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import dataclass

Span = tuple[int, int]  # first character, and the one behind the last

_ATOM = re.compile(r"\w+|[^\w\s]")
# scripts that put no space between words: Thai, Lao, Myanmar, Khmer, kana, Han; there the tokens must show
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


@dataclass(frozen=True)
class Folded:
    """A text in which what a tokenizer does not distinguish is the same.

    Attributes:
        text: Its characters decomposed, and in lower case where case does not count.
        places: For each of them the character of the original that it comes from.
        minds_case: Whether case counts.
    """

    text: str
    places: tuple[int, ...]
    minds_case: bool

    @classmethod
    def of(cls, text: str, minds_case: bool) -> Folded:
        pieces = [unicodedata.normalize("NFD", char if minds_case else char.lower()) for char in text]
        places = [place for place, piece in enumerate(pieces) for _ in piece]
        return cls("".join(pieces), tuple(places), minds_case)


def find_phrase(phrase: str, text: Folded) -> tuple[list[Span], list[Span]]:
    """Where ``phrase`` is in ``text``: as whole words, and as a part of longer ones.

    Blanks match blanks of any number, next to punctuation also none. "ball" is a part of "football"; where a script
    puts no space between words, every place counts as whole.

    Returns:
        Two lists of spans of the original text.
    """
    pattern = _pattern(Folded.of(phrase, text.minds_case).text)
    whole: list[Span] = []
    parts: list[Span] = []
    if pattern is not None:
        for match in pattern.finditer(text.text):
            first, end = match.span(1)
            is_whole = _may_part(text.text, first) and _may_part(text.text, end)
            (whole if is_whole else parts).append((text.places[first], text.places[end - 1] + 1))
    return whole, parts


def word_around(text: str, span: Span) -> str:
    """The word of ``text`` that holds ``span``."""
    first, end = span
    while first > 0 and not _may_part(text, first):
        first -= 1
    while end < len(text) and not _may_part(text, end):
        end += 1
    return text[first:end]


def _pattern(phrase: str) -> re.Pattern[str] | None:
    """What finds a phrase, looked ahead so that places may overlap; None for an empty one."""
    atoms = list(_ATOM.finditer(phrase))
    if not atoms:
        return None
    joined = re.escape(atoms[0][0])
    for before, after in itertools.pairwise(atoms):
        in_words = _in_word(before[0][-1]) and _in_word(after[0][0])
        blanks = r"\s*" if not in_words else r"\s+" if after.start() > before.end() else ""
        joined += blanks + re.escape(after[0])
    return re.compile(f"(?=({joined}))")


def _may_part(text: str, place: int) -> bool:
    """Whether one word may end and another begin before this character."""
    if place in (0, len(text)):
        return True
    before, after = text[place - 1], text[place]
    if not (_in_word(before) and _in_word(after)):
        return True
    return not _is_mark(after) and any(map(_UNSPACED.match, (before, after)))


def _in_word(char: str) -> bool:
    return char.isalnum() or _is_mark(char)


def _is_mark(char: str) -> bool:
    return unicodedata.category(char).startswith("M")
