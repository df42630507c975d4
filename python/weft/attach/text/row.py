"""Where the tokens of a text are in the row of ids that its encoder reads: cut off, padded on either side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from weft.attach.text.pieces import Pieces, cut, spell


@dataclass(frozen=True)
class Row:
    """The tokens of a text in the row of its encoder.

    Attributes:
        text: The text as the tokenizer got it.
        pieces: Its tokens, all of them where that is known.
        places: Where each is in the row; where it would be, for one that is cut off.
        cut_off: Those that are not in the row.
        real: Places of the row without padding, among them what a pipeline put behind the text.
        length: Of the row, padding included.
    """

    text: str
    pieces: Pieces
    places: tuple[int, ...]
    cut_off: range
    real: tuple[int, ...]
    length: int


def padded_row(tokenizer: Any, text: str, length: int, side: str) -> Row:
    """The row of ``length`` tokens that a tokenizer makes of a text; it keeps the tokens that end every text."""
    pieces = cut(tokenizer, text)
    count = len(pieces.ids)
    if count > length:
        closing = min(pieces.closing, length)
        places = (*range(count - closing), *range(length - closing, length))
        return Row(text, pieces, places, range(length - closing, count - closing), tuple(range(length)), length)
    first = length - count if side == "left" else 0
    places = tuple(range(first, first + count))
    return Row(text, pieces, places, range(0), places, length)


def recorded_row(tokenizer: Any, text: str, ids: Sequence[int], mask: Sequence[Any] | None) -> Row:
    """The row that an encoder was seen to read, for a text given to the tokenizer.

    What the tokenizer makes of the text now is compared with the row. Where that does not explain it, as when a
    pipeline joins tokens of several texts, the tokens of the row are spelt out.
    """
    made = [cut(tokenizer, text, special) for special in (True, False)]
    real = _real(ids, mask, made[0].ids, tokenizer.pad_token_id)
    found = [ids[place] for place in real]
    for pieces in made:
        placed = _explained(found, real, pieces.ids)
        if placed is not None:
            return Row(text, pieces, *placed, real, len(ids))
    return Row(text, spell(tokenizer, found, text), real, range(0), real, len(ids))


def explains(tokenizer: Any, text: str, ids: Sequence[int], mask: Sequence[Any] | None) -> bool:
    """Whether a row is what the tokenizer makes of a text."""
    made = [cut(tokenizer, text, special).ids for special in (True, False)]
    real = _real(ids, mask, made[0], tokenizer.pad_token_id)
    return any(_explained([ids[place] for place in real], real, wanted) is not None for wanted in made)


def _explained(
    found: Sequence[int], real: tuple[int, ...], wanted: Sequence[int]
) -> tuple[tuple[int, ...], range] | None:
    """Places of the tokens of a text, and which of them are cut off, if a row is explained by them.

    It is by the first and the last of them, the middle cut off, or by all of them with more behind.
    """
    leading = _shared(found, wanted, min(len(found), len(wanted)))
    if leading == len(wanted):
        return real[:leading], range(0)
    trailing = _shared(found[::-1], wanted[::-1], min(len(found), len(wanted)) - leading)
    if leading + trailing < len(found):
        return None
    cut_off = range(leading, len(wanted) - trailing)
    virtual = real[leading - 1] + 1 if leading else 0
    return (*real[:leading], *range(virtual, virtual + len(cut_off)), *real[leading:]), cut_off


def _shared(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """How many tokens two sequences begin with alike, at most ``most``."""
    return next((count for count in range(most) if one[count] != other[count]), most)


def _real(
    ids: Sequence[int], mask: Sequence[Any] | None, wanted: Sequence[int], padding: int | None
) -> tuple[int, ...]:
    """Places of a row without padding; where only the ids show them, that may look like the text's end token."""
    if mask is not None:
        return tuple(itertools.compress(range(len(ids)), mask))
    others = [place for place, one in enumerate(ids) if one != padding] or [0]
    ending = next((count for count, one in enumerate(reversed(wanted)) if one != padding), len(wanted))
    return tuple(range(others[0], min(others[-1] + ending + 1, len(ids))))
