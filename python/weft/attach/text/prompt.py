"""The text behind the conditioning, and from its words to token positions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from weft.attach.text.tokenized import TokenizedText, UnplacedError

Texts = tuple[tuple[TokenizedText, ...], ...]  # [image][tokenizer]
_Places = TypeVar("_Places", bound=tuple)  # type: ignore[type-arg]


@dataclass(frozen=True, eq=False)
class Prompt:
    """The text behind one call of ``encode_prompt``.

    Attributes:
        texts: Per image the prompt as each tokenizer sees it; None when only embeddings were given.
        images: Rows of the conditional embeddings.
        guided: Whether unconditional rows go before them.
        embeddings: The conditional embeddings themselves, [images, Nk, C].
        encoder: Encodes other texts as these were; None where there is no pipeline to do it.
        text_length: Tokens of T5 at the end of the embeddings (``max_sequence_length``), which are zeros where a
            pipeline of Stable Diffusion 3 has no T5; None where the model reads none.
        negatives: Embeddings that were made with it, of the negative prompt.
        shares_real: Maps are shares of the tokens that are no padding, which takes part in attention.
        is_negative: It is itself a prompt to be guided away from, encoded by a call of its own.
    """

    texts: Texts | None
    images: int
    guided: bool
    embeddings: Tensor = field(repr=False)
    encoder: Callable[[list[str]], Tensor] | None = field(default=None, repr=False)
    text_length: int | None = None
    negatives: tuple[Tensor, ...] = field(default=(), repr=False)
    is_negative: bool = False
    shares_real: bool = False

    def find(self, phrase: str, image: int) -> tuple[int, ...]:
        """Token positions of ``phrase`` in the prompt of ``image``, or of its n-th occurrence for "phrase#n".

        Two CLIP encoders share positions. Where a T5 reads the prompt too, the positions of both are given: CLIP's
        first, or one alone where the other does not have the phrase or does not reach it.

        Raises:
            LookupError: It does not occur there.
            ValueError: The text is not known, or ``phrase`` is ambiguous, cut off, without tokens of its own, or
                placed differently by tokenizers that share positions.
        """
        if self.texts is None:
            raise ValueError(
                f"weft: {phrase!r} cannot be looked up, since the pipeline was given `prompt_embeds` without their "
                "text; take them from `pipe.encode_prompt` after attaching, say what they are with "
                "`attachment.describe_prompt(text, embeds)`, or give token positions"
            )
        found: tuple[int, ...] = ()
        errors: list[LookupError | UnplacedError] = []
        for texts in self._by_start(image):
            try:
                found += _agreed([text.place(phrase) for text in texts], phrase, texts)
            except LookupError as error:
                errors.append(LookupError(f"{error}{_different_texts(texts)}"))
            except UnplacedError as error:
                errors.append(error)
        if not found:
            raise next((error for error in errors if isinstance(error, UnplacedError)), errors[0])
        return found

    def occurrences(self, phrase: str, image: int) -> tuple[tuple[int, ...], ...]:
        """Token positions of every place of ``phrase`` in the prompt of ``image``, as far as it is encoded.

        Raises:
            ValueError: The text is not known, or tokenizers that share positions place the phrase differently.
        """
        per_start = [
            _agreed([tuple(text.positions(phrase)) for text in texts], phrase, texts)
            for texts in self._by_start(image)
        ]
        return tuple(sum(places, ()) for places in itertools.zip_longest(*per_start, fillvalue=()))

    def real(self, image: int) -> tuple[int, ...]:
        """Positions of the tokens that are no padding: prompt, chat template, start and end token.

        Raises:
            ValueError: The text is not known.
        """
        return tuple(sorted({place for text in self._known_texts()[image] for place in text.real}))

    def own(self, image: int) -> tuple[int, ...]:
        """Positions of the tokens of the prompt of ``image`` itself, without chat template, start and end token.

        Raises:
            ValueError: The text is not known.
        """
        return tuple(sorted({place for text in self._known_texts()[image] for place in text.own}))

    def length(self, image: int) -> int:
        """Tokens up to the end of the prompt of ``image``, start and end token included; what follows is padding.

        A T5 behind CLIP does not count. Padding on the left, before the prompt, does.

        Raises:
            ValueError: The text is not known.
        """
        return max(text.length for text in self._by_start(image)[0])

    def encode(self, texts: list[str]) -> Tensor:
        """Encode other texts as the prompt was encoded (text encoders, LoRA, clip skip), [texts, Nk, C].

        Raises:
            ValueError: There is no pipeline to encode them.
        """
        if self.encoder is None:
            raise ValueError("weft: texts can be encoded only through a pipeline; attach the pipeline, not its model")
        return self.encoder(texts)

    def _by_start(self, image: int) -> list[list[TokenizedText]]:
        """The prompt of ``image`` as each tokenizer sees it, those together that share positions."""
        texts = sorted(self._known_texts()[image], key=lambda text: text.start)
        return [list(group) for _, group in itertools.groupby(texts, key=lambda text: text.start)]

    def _known_texts(self) -> Texts:
        if self.texts is None:
            raise ValueError(
                "weft: the pipeline was given `prompt_embeds` without their text; take them from "
                "`pipe.encode_prompt` after attaching"
            )
        return self.texts


def _agreed(places: Sequence[_Places], phrase: str, texts: Sequence[TokenizedText]) -> _Places:
    """What tokenizers that share positions say, as one."""
    if len(set(places)) > 1:
        choices = " and ".join(str(_listed(place)) for place in sorted(set(places)))
        raise ValueError(
            f"weft: {phrase!r} is at different positions for the pipeline's tokenizers: {choices}; give the "
            f"position you mean, or give them the same words there{_different_texts(texts)}"
        )
    return places[0]


def _different_texts(texts: Sequence[TokenizedText]) -> str:
    """Which tokenizer reads which prompt, where a pipeline was given several; to end a message."""
    if len({text.text for text in texts}) == 1:
        return ""
    return "; `prompt` and `prompt_2` differ: " + ", ".join(f"`{text.name}` reads {text.text!r}" for text in texts)


def _listed(places: Any) -> Any:
    return [_listed(place) for place in places] if isinstance(places, tuple) else places
