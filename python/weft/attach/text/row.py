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
        length: Of the row, padding included.
    """

    text: str
    pieces: Pieces
    places: tuple[int, ...]
    cut_off: range
    length: int


def padded_row(tokenizer: Any, text: str, length: int, side: str) -> Row:
    """The row of ``length`` tokens that a tokenizer makes of a text; it keeps the tokens that end every text."""
    pieces = cut(tokenizer, text)
    count = len(pieces.ids)
    if count > length:
        closing = min(pieces.closing, length)
        places = (*range(count - closing), *range(length - closing, length))
        return Row(text, pieces, places, range(length - closing, count - closing), length)
    first = length - count if side == "left" else 0
    return Row(text, pieces, tuple(range(first, first + count)), range(0), length)


def recorded_row(tokenizer: Any, text: str, ids: Sequence[int], mask: Sequence[bool] | None) -> Row:
    """The row that an encoder was seen to read, for a text given to the tokenizer.

    What the tokenizer makes of the text now is compared with the row. Where that does not explain it, as when a
    pipeline joins tokens of several texts, the tokens of the row are spelt out.
    """
    for special in (True, False):
        row = _explained(tokenizer, text, cut(tokenizer, text, special), ids, mask)
        if row is not None:
            return row
    places = tuple(itertools.compress(range(len(ids)), _without_padding(tokenizer, ids) if mask is None else mask))
    pieces = spell(tokenizer, [ids[place] for place in places], text)
    return Row(text, pieces, places, range(0), len(ids))


def _explained(
    tokenizer: Any, text: str, pieces: Pieces, ids: Sequence[int], mask: Sequence[bool] | None
) -> Row | None:
    """The row as the first and the last tokens of the text, if it is nothing else but padding."""
    places = list(range(len(ids)) if mask is None else itertools.compress(range(len(ids)), mask))
    found, wanted = [ids[place] for place in places], pieces.ids
    leading = _shared(found, wanted, min(len(found), len(wanted)))
    trailing = _shared(found[::-1], wanted[::-1], min(len(found), len(wanted)) - leading)
    rest = found[leading : len(found) - trailing]
    is_padded = mask is None and leading + trailing == len(wanted) and set(rest) <= {tokenizer.pad_token_id}
    if rest and not is_padded:
        return None
    cut_off = range(leading, len(wanted) - trailing)
    virtual = places[leading - 1] + 1 if leading else 0
    return Row(
        text,
        pieces,
        (*places[:leading], *range(virtual, virtual + len(cut_off)), *places[len(places) - trailing :]),
        cut_off,
        len(ids),
    )


def _shared(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """How many tokens two sequences begin with alike, at most ``most``."""
    return next((count for count in range(most) if one[count] != other[count]), most)


def _without_padding(tokenizer: Any, ids: Sequence[int]) -> list[bool]:
    """Which tokens are no padding, where nothing but the ids tells; padding may look like the end token, once real."""
    padding = tokenizer.pad_token_id
    last = next((place for place in reversed(range(len(ids))) if ids[place] != padding), -1)
    if padding == tokenizer.eos_token_id:
        last += 1
    first = next((place for place in range(len(ids)) if ids[place] != padding), 0)
    return [first <= place <= last for place in range(len(ids))]
