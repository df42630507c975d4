"""How a tokenizer sees the prompt of an image, and where words are in what its encoder makes of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_OCCURRENCE = re.compile(r"(?P<phrase>.+)#(?P<number>[1-9]\d*)", re.DOTALL)
_WORD_END = "</w>"  # ends the last piece of a word in CLIP's vocabulary
_WORD_START = "\u2581"  # begins the first piece of a word in that of sentencepiece (T5)


class CutOffError(ValueError):
    """A phrase reaches beyond what its encoder sees."""


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """How one tokenizer sees the prompt of one image.

    Attributes:
        text: The prompt, after textual inversion has spelt out its tokens.
        tokenizer: The tokenizer.
        spell_out: Does to a phrase what was done to the text.
        start: Position of the first of its tokens in the conditioning: 0 but for T5, whose tokens come after CLIP's.
        max_length: How many tokens its encoder sees; None for as many as the tokenizer says.
    """

    text: str
    tokenizer: Any
    spell_out: Callable[[str], str]
    start: int = 0
    max_length: int | None = None

    def positions(self, phrase: str) -> list[tuple[int, ...]]:
        """Positions in the conditioning of every occurrence of ``phrase``, seen by the encoder or not."""
        wanted = self._ids(self.spell_out(phrase), special=False)
        ids = self._ids(self.text, special=True)
        pieces = self.tokenizer.convert_ids_to_tokens(ids)
        return [
            tuple(range(self.start + first, self.start + first + len(wanted)))
            for first in range(len(ids) - len(wanted) + 1)
            if wanted and ids[first : first + len(wanted)] == wanted and self._is_whole(pieces, first, len(wanted))
        ]

    def place(self, phrase: str) -> tuple[int, ...]:
        """Positions of ``phrase``, or of its n-th occurrence for "phrase#n".

        Raises:
            LookupError: It does not occur.
            CutOffError: Its encoder does not see all of it.
            ValueError: It occurs more than once, or fewer than n times.
        """
        numbered = _OCCURRENCE.fullmatch(phrase)
        if numbered and not self.positions(phrase):
            bare, number = numbered["phrase"], int(numbered["number"])
        else:
            bare, number = phrase, None
        found = self.positions(bare)
        if not found:
            raise LookupError(
                f"weft: {bare!r} is not in the prompt {self.text!r}; its words are {', '.join(self.words())}"
            )
        if number is None and len(found) > 1:
            choices = ", ".join(f"{bare + '#' + str(n)!r} (position {place[0]})" for n, place in enumerate(found, 1))
            raise ValueError(
                f"weft: {bare!r} must name one place in the prompt {self.text!r}; it occurs {len(found)} times; "
                f"write {choices}"
            )
        if number is not None and number > len(found):
            raise ValueError(f"weft: {phrase!r} asks for more than the {len(found)} occurrences in {self.text!r}")
        place = found[(number or 1) - 1]
        if place[-1] >= self.limit:
            raise CutOffError(
                f"weft: {phrase!r} is cut off: it ends at position {place[-1]} and the text encoder sees the first "
                f"{self.limit}, start token included; shorten the prompt before it"
            )
        return place

    def words(self) -> list[str]:
        """The words of the text, as they can be asked for."""
        return self.text.split()

    @property
    def limit(self) -> int:
        """First position that the text encoder never sees: the end token takes the last one."""
        return self.start + self._length_limit - 1

    @property
    def length(self) -> int:
        """Tokens that the text encoder sees before padding, start and end token included."""
        return min(len(self._ids(self.text, special=True)), self._length_limit)

    @property
    def _length_limit(self) -> int:
        return int(self.tokenizer.model_max_length) if self.max_length is None else self.max_length

    def _ids(self, text: str, special: bool) -> list[int]:
        # cut off nowhere, so that a word beyond the limit can be told from a missing one; verbose=False keeps the
        # tokenizer from warning about the length
        return list(self.tokenizer(text, add_special_tokens=special, truncation=False, verbose=False).input_ids)

    def _is_whole(self, pieces: list[str], first: int, count: int) -> bool:
        """Whether no word runs on into these pieces or out of them: "ball" is not the tail of "football"."""
        if any(piece.endswith(_WORD_END) for piece in pieces):
            return first == 0 or pieces[first - 1].endswith(_WORD_END) or self._is_added(pieces[first - 1])
        if any(piece.startswith(_WORD_START) for piece in pieces):
            after = pieces[first + count :][:1]
            return all(x.startswith(_WORD_START) or self._is_added(x) or not x[0].isalnum() for x in after)
        return True

    def _is_added(self, piece: str) -> bool:
        return piece in self.tokenizer.get_added_vocab()
