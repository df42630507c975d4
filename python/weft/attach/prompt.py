"""From the words of a prompt to token positions, and how an attachment learns which prompt is being drawn."""

from __future__ import annotations

import functools
import inspect
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_OCCURRENCE = re.compile(r"(?P<phrase>.+)#(?P<number>[1-9]\d*)", re.DOTALL)
_WORD_END = "</w>"


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """How one tokenizer sees the prompt of one image: ``text``, after textual inversion has spelt out its tokens."""

    text: str
    tokenizer: Any
    spell_out: Callable[[str], str]

    def positions(self, phrase: str) -> list[tuple[int, ...]]:
        """Token positions of every occurrence of ``phrase``, start token included in the count."""
        wanted = self._ids(self.spell_out(phrase), special=False)
        ids = self._ids(self.text, special=True)
        pieces = self.tokenizer.convert_ids_to_tokens(ids)
        return [
            tuple(range(start, start + len(wanted)))
            for start in range(len(ids) - len(wanted) + 1)
            if wanted and ids[start : start + len(wanted)] == wanted and self._starts_a_word(ids, pieces, start)
        ]

    def words(self) -> list[str]:
        """The words of the text, as they can be asked for."""
        return self.text.split()

    @property
    def limit(self) -> int:
        """First position that the text encoder never sees: the end token takes the last one."""
        return int(self.tokenizer.model_max_length) - 1

    @property
    def length(self) -> int:
        """Tokens that the text encoder sees before padding, start and end token included."""
        return min(len(self._ids(self.text, special=True)), self.limit + 1)

    def _ids(self, text: str, special: bool) -> list[int]:
        # cut off nowhere, so that a word beyond the limit can be told from a missing one; verbose=False keeps the
        # tokenizer from warning about the length
        return list(self.tokenizer(text, add_special_tokens=special, truncation=False, verbose=False).input_ids)

    def _starts_a_word(self, ids: list[int], pieces: list[str], start: int) -> bool:
        """Whether no word runs on into ``start``: "ball" is not the tail of "football"."""
        if start == 0 or not any(piece.endswith(_WORD_END) for piece in pieces):
            return True
        added = self.tokenizer.get_added_vocab()
        return pieces[start - 1].endswith(_WORD_END) or pieces[start - 1] in added


Texts = tuple[tuple[TokenizedText, ...], ...]  # [image][tokenizer]


@dataclass(frozen=True, eq=False)
class Prompt:
    """The text behind one call of ``encode_prompt``.

    Attributes:
        texts: Per image the prompt as each tokenizer sees it; None when only embeddings were given.
        images: Rows of the conditional embeddings.
        guided: Whether unconditional rows go with them.
        embeddings: The conditional embeddings themselves, [images, Nk, C].
        encoder: Encodes other texts as these were; None where there is no pipeline to do it.
    """

    texts: Texts | None
    images: int
    guided: bool
    embeddings: Tensor = field(repr=False)
    encoder: Callable[[list[str]], Tensor] | None = field(default=None, repr=False)

    def conditional_rows(self, batch: int) -> slice:
        """Rows of a denoiser's batch that carry the prompt.

        Unconditional rows come first; perturbed ones (PAG) last; a callback may drop the unconditional ones midway.

        Raises:
            ValueError: ``batch`` is no such stack.
        """
        if batch not in (self.images, 2 * self.images, 3 * self.images):
            raise ValueError(
                f"attach: the denoiser's batch must be 1, 2 or 3 times the {self.images} images of `encode_prompt`; "
                f"got {batch} rows; call `pipe.encode_prompt` for the images you are making"
            )
        start = self.images if self.guided and batch > self.images else 0
        return slice(start, start + self.images)

    def find(self, phrase: str, image: int) -> tuple[int, ...]:
        """Token positions of ``phrase`` in the prompt of ``image``, or of its n-th occurrence for "phrase#n".

        Raises:
            LookupError: It does not occur there.
            ValueError: The text is not known, or ``phrase`` is ambiguous, cut off, or placed differently by the
                pipeline's tokenizers.
        """
        if self.texts is None:
            raise ValueError(
                f"weft: {phrase!r} cannot be looked up, since the pipeline was given `prompt_embeds` without their "
                "text; take them from `pipe.encode_prompt` after attaching, or give token positions"
            )
        places = {_place(text, phrase) for text in self.texts[image]}
        if len(places) > 1:
            raise ValueError(
                f"weft: {phrase!r} stands at different positions for the pipeline's tokenizers: "
                f"{' and '.join(str(list(place)) for place in sorted(places))}; give the position you mean"
            )
        return places.pop()

    def occurrences(self, phrase: str, image: int) -> tuple[tuple[int, ...], ...]:
        """Token positions of every place of ``phrase`` in the prompt of ``image``, as far as it is encoded.

        Raises:
            ValueError: The text is not known, or the pipeline's tokenizers place the phrase differently.
        """
        texts = self._known_texts()[image]
        found = {tuple(place for place in text.positions(phrase) if place[-1] < text.limit) for text in texts}
        if len(found) > 1:
            places = " and ".join(str([list(place) for place in one]) for one in sorted(found))
            raise ValueError(
                f"weft: {phrase!r} stands at different positions for the pipeline's tokenizers: {places}; give "
                "them the same words there"
            )
        return found.pop()

    def length(self, image: int) -> int:
        """Tokens in the prompt of ``image``, start and end token included; what follows is padding.

        Raises:
            ValueError: The text is not known.
        """
        return max(text.length for text in self._known_texts()[image])

    def encode(self, texts: list[str]) -> Tensor:
        """Encode other texts as the prompt was encoded (text encoders, LoRA, clip skip), [texts, Nk, C].

        Raises:
            ValueError: There is no pipeline to encode them.
        """
        if self.encoder is None:
            raise ValueError("weft: texts can be encoded only through a pipeline; attach the pipeline, not its model")
        return self.encoder(texts)

    def _known_texts(self) -> Texts:
        if self.texts is None:
            raise ValueError(
                "weft: the pipeline was given `prompt_embeds` without their text; take them from "
                "`pipe.encode_prompt` after attaching"
            )
        return self.texts


def _place(text: TokenizedText, phrase: str) -> tuple[int, ...]:
    numbered = _OCCURRENCE.fullmatch(phrase)
    if numbered and not text.positions(phrase):
        bare, number = numbered["phrase"], int(numbered["number"])
    else:
        bare, number = phrase, None
    found = text.positions(bare)
    if not found:
        raise LookupError(
            f"weft: {bare!r} is not in the prompt {text.text!r}; its words are {', '.join(text.words())}"
        )
    if number is None and len(found) > 1:
        choices = ", ".join(f"{bare + '#' + str(n)!r} (position {place[0]})" for n, place in enumerate(found, 1))
        raise ValueError(
            f"weft: {bare!r} must name one place in the prompt {text.text!r}; it occurs {len(found)} times; "
            f"write {choices}"
        )
    if number is not None and number > len(found):
        raise ValueError(f"weft: {phrase!r} asks for more than the {len(found)} occurrences in {text.text!r}")
    place = found[(number or 1) - 1]
    if place[-1] >= text.limit:
        raise ValueError(
            f"weft: {phrase!r} is cut off: it ends at position {place[-1]} and the text encoder sees the first "
            f"{text.limit}, start token included; shorten the prompt before it"
        )
    return place


class PromptListener:
    """Stands in for ``pipe.encode_prompt`` on the instance and reports every prompt that goes through it.

    The method is public in all Stable Diffusion pipelines since diffusers 0.18, and every one of them calls it, also
    when ``prompt_embeds`` are given.
    """

    def __init__(self, pipeline: Any, report: Callable[[Prompt], None]) -> None:
        self._pipeline = pipeline
        self._report: Callable[[Prompt], None] | None = report
        self._before = pipeline.__dict__.get("encode_prompt")  # another tool's wrapper, as a rule absent
        self._encoded: list[tuple[weakref.ref[Tensor], Texts]] = []
        self._wrapper = self._wrap(pipeline.encode_prompt)
        pipeline.encode_prompt = self._wrapper

    def remove(self) -> bool:
        """Put ``encode_prompt`` back.

        Returns:
            False when somebody else has wrapped it since: ours then stays below theirs and does nothing any more.
        """
        pipeline, self._pipeline, self._report = self._pipeline, None, None
        self._encoded.clear()
        if pipeline.__dict__.get("encode_prompt") is not self._wrapper:
            return False
        if self._before is None:
            del pipeline.__dict__["encode_prompt"]
        else:
            pipeline.encode_prompt = self._before
        return True

    def _wrap(self, encode_prompt: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(encode_prompt)

        @functools.wraps(encode_prompt)
        def listening(*args: Any, **kwargs: Any) -> Any:
            encoded = encode_prompt(*args, **kwargs)
            if self._report is not None:
                bound = signature.bind(*args, **kwargs)
                bound.apply_defaults()
                embeddings = encoded[0] if isinstance(encoded, tuple) else encoded
                self._report(self._prompt(encode_prompt, bound.arguments, embeddings))
            return encoded

        return listening

    def _prompt(self, encode_prompt: Callable[..., Any], arguments: dict[str, Any], embeddings: Tensor) -> Prompt:
        images = embeddings.shape[0]
        given = arguments.get("prompt_embeds")
        texts = self._texts(arguments) if given is None else self._texts_of(given)
        if texts is not None:  # each prompt's images stand together
            texts = tuple(text for text in texts for _ in range(images // len(texts)))
        guided = bool(arguments.get("do_classifier_free_guidance", False))
        self._encoded = [(tensor, known) for tensor, known in self._encoded if tensor() is not None]
        if texts is not None:
            self._encoded.append((weakref.ref(embeddings), texts))
        return Prompt(texts, images, guided, embeddings, functools.partial(_encode, encode_prompt, arguments))

    def _texts(self, arguments: dict[str, Any]) -> Texts:
        prompts = _listed(arguments["prompt"])
        others = _listed(arguments.get("prompt_2") or prompts)
        pipeline = self._pipeline
        first = getattr(pipeline, "tokenizer", None)
        second = getattr(pipeline, "tokenizer_2", None)
        # an SDXL refiner has the second tokenizer only, and encodes `prompt` with it
        if first is None:
            columns = [(second, prompts)]
        elif second is None:
            columns = [(first, prompts)]
        else:
            columns = [(first, prompts), (second, others)]
        per_tokenizer = [[self._tokenized(text, tokenizer) for text in texts] for tokenizer, texts in columns]
        return tuple(zip(*per_tokenizer, strict=True))

    def _tokenized(self, text: str, tokenizer: Any) -> TokenizedText:
        convert = getattr(self._pipeline, "maybe_convert_prompt", None)

        def spell_out(phrase: str) -> str:
            return phrase if convert is None else convert(phrase, tokenizer)

        return TokenizedText(spell_out(text), tokenizer, spell_out)

    def _texts_of(self, embeddings: Tensor) -> Texts | None:
        """The texts of embeddings that this listener saw being made."""
        return next((texts for tensor, texts in self._encoded if tensor() is embeddings), None)


@torch.no_grad()
def _encode(encode_prompt: Callable[..., Any], arguments: dict[str, Any], texts: list[str]) -> Tensor:
    """Call ``encode_prompt`` again with other texts and everything else as it was."""
    ours = {
        "prompt": texts,
        "prompt_2": None,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
        **dict.fromkeys(name for name in arguments if name.startswith("negative_") or name.endswith("prompt_embeds")),
    }
    encoded = encode_prompt(**{name: ours.get(name, value) for name, value in arguments.items()})
    return encoded[0] if isinstance(encoded, tuple) else encoded


def _listed(prompt: str | Sequence[str]) -> list[str]:
    return [prompt] if isinstance(prompt, str) else list(prompt)
