"""Byte-pair merges under which given words become one token each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel

Merges = list[tuple[str, str]]


def alphabet() -> list[str]:
    """The 256 characters that byte-level tokenizers write for bytes."""
    return sorted(ByteLevel.alphabet())


def merges_of(words: Iterable[Sequence[str]]) -> Merges:
    """Merges that make one token of each word's symbols; later ones rank lower, so that earlier words stay whole."""
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        while len(pieces := _pieces(word, ranks)) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
    return list(ranks)


def vocabulary(symbols: Iterable[str], merges: Merges, special: Iterable[str] = ()) -> dict[str, int]:
    tokens = dict.fromkeys([*symbols, *map("".join, merges), *special])
    return {token: index for index, token in enumerate(tokens)}


def _pieces(word: Sequence[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    pieces = list(word)
    while ranked := [(ranks[pair], place) for place, pair in enumerate(pairwise(pieces)) if pair in ranks]:
        place = min(ranked)[1]
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces
