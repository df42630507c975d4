"""How a tokenizer sees the prompt of an image, and where words are in what its encoder makes of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from weft.attach.text.pieces import minds_case
from weft.attach.text.row import Row, padded_row, recorded_row
from weft.attach.text.words import Folded, Span, find_phrase, word_around

_OCCURRENCE = re.compile(r"(?P<phrase>.+)#(?P<number>[1-9]\d*)", re.DOTALL)


class UnplacedError(ValueError):
    """A phrase is in the prompt, and the conditioning has no tokens that are its own."""


class CutOffError(UnplacedError):
    """A phrase reaches beyond what its encoder sees."""


def reader_of(tokenizer: Any) -> Any:
    """What reads text: the tokenizer itself, or that of a processor for pictures and text."""
    return tokenizer if hasattr(tokenizer, "convert_ids_to_tokens") else tokenizer.tokenizer


def _as_it_is(phrase: str) -> str:
    return phrase


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """How one tokenizer sees the prompt of one image.

    Positions are those of the conditioning that the denoiser reads: token ``k`` of the encoder's row, padding
    included, is at ``start + k - dropped``.

    Attributes:
        text: The prompt, after textual inversion has spelt out its tokens.
        tokenizer: The tokenizer, or the processor that has one.
        spell_out: Does to a phrase what was done to the text.
        start: Position of the first of its tokens in the conditioning: 0 but for T5, whose tokens come after CLIP's.
        max_length: How many tokens its encoder reads; None for as many as were recorded, else as the tokenizer says.
        full: The text given to the tokenizer, with the chat template; None for ``text`` alone.
        dropped: How many tokens at the front the pipeline leaves out of the conditioning: 34 of Qwen-Image's template.
        padding_side: Where the tokenizer puts padding; read where nothing was recorded.
        ids: The row that the encoder read, [n], as recorded; None for what the tokenizer makes of ``full``.
        mask: Which of ``ids`` are no padding, [n]; None to see it from the ids.
        name: What the pipeline calls the tokenizer, for messages.
    """

    text: str
    tokenizer: Any
    spell_out: Callable[[str], str] = _as_it_is
    start: int = 0
    max_length: int | None = None
    full: str | None = None
    dropped: int = 0
    padding_side: Literal["left", "right"] = "right"
    ids: tuple[int, ...] | None = None
    mask: tuple[bool, ...] | None = None
    name: str = "tokenizer"

    @classmethod
    def recorded(
        cls,
        text: str,
        tokenizer: Any,
        input_ids: Sequence[int],
        attention_mask: Sequence[int] | None = None,
        *,
        full: str | None = None,
        **others: Any,
    ) -> TokenizedText:
        """The prompt of an image whose row was seen on its way to the encoder: the surest source.

        Args:
            text: The prompt, after textual inversion.
            input_ids: [n], a list or a tensor, padding included.
            attention_mask: [n], zero at padding.
            full: The text given to the tokenizer; None for ``text`` alone.
            others: Further attributes.
        """
        ids = tuple(int(one) for one in input_ids)
        mask = None if attention_mask is None else tuple(bool(one) for one in attention_mask)
        if mask is not None and len(mask) != len(ids):
            raise ValueError(
                f"weft: `attention_mask` must have the {len(ids)} entries of `input_ids`; got {len(mask)}"
            )
        return cls(text, tokenizer, full=full, ids=ids, mask=mask, **others)

    # --- words ----------------------------------------------------------------------------------------------------

    def positions(self, phrase: str) -> list[tuple[int, ...]]:
        """Positions in the conditioning of every occurrence of ``phrase`` that the encoder sees as a whole.

        An occurrence without tokens of its own is left out.
        """
        return [self._placed(tokens) for tokens in self._occurrences(phrase) if self._kept.issuperset(tokens)]

    def place(self, phrase: str) -> tuple[int, ...]:
        """Positions of ``phrase``, or of its n-th occurrence for "phrase#n".

        Raises:
            LookupError: It does not occur as a phrase of whole words.
            CutOffError: Its encoder does not see all of it.
            UnplacedError: It has no tokens of its own.
            ValueError: It occurs more than once, or fewer than n times.
        """
        numbered = _OCCURRENCE.fullmatch(phrase)
        if numbered and not self._find(phrase)[0]:
            bare, number = numbered["phrase"], int(numbered["number"])
        else:
            bare, number = phrase, None
        found = self._occurrences(bare)
        if not found:
            raise self._no_place(bare)
        if number is None and len(found) > 1:
            choices = ", ".join(
                f"{bare + '#' + str(n)!r} (position {self._placed(tokens)[0]})" for n, tokens in enumerate(found, 1)
            )
            raise ValueError(
                f"weft: {bare!r} must name one place in the prompt {self.text!r}; it occurs {len(found)} times; "
                f"write {choices}"
            )
        if number is not None and number > len(found):
            raise ValueError(f"weft: {phrase!r} asks for more than the {len(found)} occurrences in {self.text!r}")
        tokens = found[(number or 1) - 1]
        place = self._placed(tokens)
        if self._kept.issuperset(tokens):
            return place
        if place[0] < self.start:
            raise CutOffError(
                f"weft: {phrase!r} is cut off: it is among the first {self.dropped} tokens, which the pipeline leaves "
                "out"
            )
        raise CutOffError(
            f"weft: {phrase!r} is cut off: it ends at position {place[-1]} and the text encoder sees the first "
            f"{self.limit}, start token included; shorten the prompt before it"
        )

    def words(self) -> list[str]:
        """The words of the text, as they can be asked for."""
        return self.text.split()

    # --- positions ------------------------------------------------------------------------------------------------

    @property
    def limit(self) -> int:
        """First position that no word can have, since the encoder reads no further; the end token may take it."""
        return self.start - self.dropped + self._row_length - self._row.pieces.closing

    @functools.cached_property
    def real(self) -> tuple[int, ...]:
        """Positions of all tokens that are no padding: prompt, template, start and end token."""
        return tuple(self.start - self.dropped + place for place in self._row.real if self._is_kept(place))

    @functools.cached_property
    def own(self) -> tuple[int, ...]:
        """Positions of the tokens of the prompt itself, without template, start and end token."""
        return self._placed(token for token in self._row.pieces.over(self._prompt) if token in self._kept)

    @property
    def length(self) -> int:
        """Tokens of the conditioning up to the last that is no padding, start and end token included."""
        return max(self.real, default=self.start - 1) + 1 - self.start

    # --- the row of the encoder -----------------------------------------------------------------------------------

    @functools.cached_property
    def _row(self) -> Row:
        full = self.text if self.full is None else self.full
        if self.ids is None:
            return padded_row(self._reader, full, self._row_length, self.padding_side)
        return recorded_row(self._reader, full, self.ids, self.mask)

    @functools.cached_property
    def _row_length(self) -> int:
        if self.ids is not None:
            return min(len(self.ids), len(self.ids) if self.max_length is None else self.max_length)
        return int(self._reader.model_max_length) if self.max_length is None else self.max_length

    @functools.cached_property
    def _reader(self) -> Any:
        return reader_of(self.tokenizer)

    @functools.cached_property
    def _kept(self) -> frozenset[int]:
        """Tokens that the encoder reads and the conditioning holds."""
        return frozenset(
            token
            for token, place in enumerate(self._row.places)
            if self._is_kept(place) and token not in self._row.cut_off
        )

    def _is_kept(self, place: int) -> bool:
        return self.dropped <= place < self._row_length

    def _placed(self, tokens: Iterable[int]) -> tuple[int, ...]:
        return tuple(self.start - self.dropped + self._row.places[token] for token in tokens)

    # --- characters -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def _prompt(self) -> Span:
        """The characters of the prompt in the text that the tokenizer got.

        The last place where it comes before a special token or at the end, since a template may hold its words, too;
        all of the text where a pipeline changed the prompt.
        """
        full, wanted = self._row.text, self.text.strip()
        special = (*self._reader.all_special_tokens, *self._reader.get_added_vocab())
        ends = [match.start() + len(wanted) for match in re.finditer(f"(?={re.escape(wanted)})", full)]
        closed = [end for end in ends if not full[end:].strip() or full[end:].lstrip().startswith(special)]
        if not ends:
            return 0, len(full)
        end = (closed or ends)[-1]
        return end - len(wanted), end

    @functools.cached_property
    def _folded(self) -> Folded:
        return Folded.of(self._row.text[slice(*self._prompt)], minds_case(self._reader))

    def _find(self, phrase: str) -> tuple[list[Span], list[Span]]:
        """The characters of every occurrence: of whole words, and within longer ones."""
        first = self._prompt[0]
        whole, parts = find_phrase(self.spell_out(phrase), self._folded)
        return [(first + a, first + b) for a, b in whole], [(first + a, first + b) for a, b in parts]

    def _occurrences(self, phrase: str) -> list[list[int]]:
        """The tokens of every occurrence that has tokens of its own, whether or not the encoder sees them."""
        return [tokens for span in self._find(phrase)[0] if (tokens := self._own_tokens(span))]

    def _own_tokens(self, span: Span) -> list[int]:
        """Tokens that cover all of ``span`` and nothing else; none where there are no such."""
        tokens = self._row.pieces.over(span)
        covered = self._row.pieces.characters(tokens)
        wanted = {char for char in range(*span) if self._row.text[char].isalnum()}
        return tokens if wanted <= covered <= set(range(*span)) else []

    def _no_place(self, phrase: str) -> Exception:
        """Why a phrase has no tokens of its own anywhere."""
        whole, parts = self._find(phrase)
        where = f"the prompt {self.text!r}"
        if not whole and not parts:
            return LookupError(f"weft: {phrase!r} is not in {where}; its words are {', '.join(self.words())}")
        full, pieces = self._row.text, self._row.pieces
        span = (whole or parts)[0]
        tokens = pieces.over(span)
        at = ", ".join(map(str, self._placed(tokens)))
        if not whole:
            return LookupError(
                f"weft: {phrase!r} is not in {where} as a word of its own, only within {word_around(full, span)!r}, "
                f"at position {at}; give positions to read a part of a word"
            )
        if shared := pieces.characters(tokens):
            return UnplacedError(
                f"weft: {phrase!r} has no tokens of its own in {where}: position {at} reads "
                f"{full[min(shared) : max(shared) + 1]!r}; ask for that, or give positions"
            )
        if span[0] > max(pieces.characters(range(len(pieces.ids))), default=-1):
            return CutOffError(
                f"weft: {phrase!r} is cut off: the text encoder does not read so far; shorten the prompt before it"
            )
        return UnplacedError(f"weft: no token of {where} is known to belong to {phrase!r}; give positions")
