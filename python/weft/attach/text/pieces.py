"""Which characters of a text each of its tokens covers, whatever the tokenizer."""

from __future__ import annotations

import difflib
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from weft.attach.text.words import Span

_WORD_END = "</w>"  # ends the last piece of a word in CLIP's vocabulary
_WORD_START = "\u2581"  # begins the first piece of a word in that of sentencepiece
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # a byte that sentencepiece has no piece for
# byte-level vocabularies write printable bytes as themselves, the others as the characters from 256 on
_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + number): byte for number, byte in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))
}


@dataclass(frozen=True)
class Pieces:
    """The tokens of a text.

    Attributes:
        ids: Their ids, special tokens of the tokenizer included.
        spans: The characters each covers, blanks around them left out; empty, directly before the next token's, for
            a piece that only marks where a word starts; None for a token without characters, blank lines included.
        closing: How many special tokens end every text.
    """

    ids: tuple[int, ...]
    spans: tuple[Span | None, ...]
    closing: int

    def over(self, span: Span) -> list[int]:
        """Tokens that cover characters of ``span``, and what marks the start of its words."""
        first, end = span
        return [
            token
            for token, covered in enumerate(self.spans)
            if covered is not None
            and ((covered[0] < end and first < covered[1]) or first <= covered[0] == covered[1] < end)
        ]

    def characters(self, tokens: Iterable[int]) -> set[int]:
        """The characters that these tokens cover."""
        spans = (self.spans[token] for token in tokens)
        return {char for span in spans if span is not None for char in range(*span)}


def cut(tokenizer: Any, text: str, special: bool = True) -> Pieces:
    """The tokens of ``text``, cut off nowhere.

    Args:
        special: Whether the tokenizer adds its special tokens.
    """
    # verbose=False keeps the tokenizer from warning about the length
    call = {"add_special_tokens": special, "truncation": False, "verbose": False}
    if not getattr(tokenizer, "is_fast", False):
        return spell(tokenizer, tokenizer(text, **call).input_ids, text)
    made = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, **call)
    spans = [
        None if added else _without_blanks(text, span)
        for span, added in zip(made.offset_mapping, made.special_tokens_mask, strict=True)
    ]
    return Pieces(tuple(made.input_ids), tuple(spans), _trailing(made.special_tokens_mask))


def spell(tokenizer: Any, ids: Sequence[int], text: str) -> Pieces:
    """Tokens that are known by their ids alone, aligned with the text that they were made of.

    The characters of the pieces are matched with those of ``text`` in order, blanks, case and compatibility forms
    aside; what a tokenizer has no piece for is passed over.
    """
    chars = [(char, owners) for char, owners in _characters(tokenizer, ids) for char in _plain(char)]
    wanted = [(char, place) for place, char in enumerate(text) for char in _plain(char)]
    matcher = difflib.SequenceMatcher(None, [x for x, _ in chars], [x for x, _ in wanted], autojunk=False)
    spans: list[Span | None] = [None] * len(ids)
    for here, there, count in matcher.get_matching_blocks():
        for number in range(count):
            place = wanted[there + number][1]
            for owner in chars[here + number][1]:
                first, end = spans[owner] or (place, place)
                spans[owner] = (min(first, place), max(end, place + 1))
    pieces = _named(tokenizer, ids)
    for number in range(len(ids) - 2, -1, -1):
        following = spans[number + 1]
        if pieces[number] == _WORD_START and following is not None and pieces[number + 1][0] != _WORD_START:
            spans[number] = (following[0], following[0])
    return Pieces(tuple(ids), tuple(spans), _trailing([one in tokenizer.all_special_ids for one in ids]))


def minds_case(tokenizer: Any) -> bool:
    """Whether the tokenizer distinguishes upper and lower case."""
    upper, lower = (list(tokenizer(x, add_special_tokens=False).input_ids) for x in "Aa")
    return upper != lower or tokenizer.unk_token_id in upper


def _named(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    return [piece or "" for piece in tokenizer.convert_ids_to_tokens(list(ids))]


def _characters(tokenizer: Any, ids: Sequence[int]) -> Iterator[tuple[str, range]]:
    """The characters that tokens stand for, special ones left out, each with the tokens that hold its bytes."""
    special, added = set(tokenizer.all_special_ids), set(tokenizer.get_added_vocab())
    pieces = ["" if one in special else piece for one, piece in zip(ids, _named(tokenizer, ids), strict=True)]
    regular = [piece not in added for piece in pieces]
    read = _byte_level if _is_byte_level(itertools.compress(pieces, regular)) else _sentencepiece
    written = [read(piece) if known else piece.encode() for piece, known in zip(pieces, regular, strict=True)]
    owners = [number for number, piece in enumerate(written) for _ in piece]
    first = 0
    for char in b"".join(written).decode("utf-8", "surrogateescape"):
        end = first + len(char.encode("utf-8", "surrogateescape"))
        yield char, range(owners[first], owners[end - 1] + 1)
        first = end


def _is_byte_level(pieces: Iterable[str]) -> bool:
    """Whether every character of the pieces is a byte, rather than a letter that looks like one."""
    listed = list(pieces)
    if any(char not in _BYTES for piece in listed for char in piece):
        return False
    try:
        b"".join(map(_byte_level, listed)).decode()
    except UnicodeDecodeError:
        return False
    return True


def _byte_level(piece: str) -> bytes:
    return bytes(_BYTES[char] for char in piece.removesuffix(_WORD_END))


def _sentencepiece(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace(_WORD_START, " ").encode()


def _plain(char: str) -> str:
    return "".join(unicodedata.normalize("NFKD", char).casefold().split())


def _without_blanks(text: str, span: Span) -> Span | None:
    """A span without the blanks at its ends; of spaces alone the empty one behind them, of other blanks none."""
    first, end = span
    covered = text[first:end]
    if not covered.strip():
        return None if covered.strip(" ") else (end, end)
    return first + len(covered) - len(covered.lstrip()), end - len(covered) + len(covered.rstrip())


def _trailing(flags: Sequence[Any]) -> int:
    return next((count for count, flag in enumerate(reversed(flags)) if not flag), len(flags))
