"""The vocabulary of tokenizers that write a space as ``Ġ`` in front of a word (Qwen, Mistral's Tekken)."""

from __future__ import annotations

from collections.abc import Iterable

from .byte_pairs import Merges, alphabet, merges_of, vocabulary
from .words import ENDINGS, WORDS

SPACE, LINE = "Ġ", "Ċ"


def byte_level(words: Iterable[str] = (), special: Iterable[str] = ()) -> tuple[dict[str, int], Merges]:
    """Vocabulary and merges: ``words`` and those of every vocabulary, alone and behind a space; ``special`` first."""
    known = (*WORDS, *words)
    merges = merges_of([*(f"{SPACE}{word}" for word in known), *known, *ENDINGS, LINE * 2])
    return vocabulary((*special, *alphabet()), merges), merges
