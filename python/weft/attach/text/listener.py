"""How an attachment learns which prompt is being drawn."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from weft.attach.families.host import Host
from weft.attach.records import TextReader
from weft.attach.text.prompt import Prompt, Texts
from weft.attach.text.recording import Record, recording
from weft.attach.text.tokenized import TokenizedText

Read = list[tuple[TextReader, Record]]  # what each tokenizer of the pipeline has read


class PromptListener:
    """Stands in for ``pipe.encode_prompt`` on the instance and reports every prompt that goes through it.

    The method is public in all Stable Diffusion pipelines since diffusers 0.18, and every one of them calls it, also
    when ``prompt_embeds`` are given.
    """

    def __init__(
        self, host: Host, report: Callable[[Prompt], None], is_negative: Callable[[dict[str, Any]], bool]
    ) -> None:
        """
        Args:
            host: Has the pipeline.
            report: Takes every prompt.
            is_negative: Whether arguments of ``encode_prompt`` are of a prompt to be guided away from.
        """
        pipeline = host.pipeline
        self._host, self._pipeline = host, pipeline
        self._report: Callable[[Prompt], None] | None = report
        self._is_negative = is_negative
        self._shares_real = host.family.shares_real
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
            if self._report is None:
                return encode_prompt(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = {**bound.arguments, "prompt": _copied(bound.arguments.get("prompt"))}
            encoders = dict(self._host.text_encoders())
            with ExitStack() as recordings:
                read = [
                    (reader, recordings.enter_context(recording(tokenizer, encoders.get(reader))))
                    for reader, tokenizer in self._host.tokenizers()
                ]
                encoded = encode_prompt(*args, **kwargs)
            self._report(self._prompt(encode_prompt, arguments, encoded, read))
            return encoded

        return listening

    def remember(self, embeddings: Tensor, prompt: Prompt) -> None:
        """Know the texts of embeddings that were made elsewhere, for calls that are given them."""
        if prompt.texts is not None:
            self._encoded.append((weakref.ref(embeddings), prompt.texts))

    def _prompt(
        self, encode_prompt: Callable[..., Any], arguments: dict[str, Any], encoded: Any, read: Read
    ) -> Prompt:
        embeddings, *others = encoded if isinstance(encoded, tuple) else (encoded,)
        images = embeddings.shape[0]
        given = arguments.get("prompt_embeds")
        texts = self._texts(arguments, read) if given is None else self._texts_of(given)
        if texts is not None:  # each prompt's images are adjacent
            texts = tuple(text for text in texts for _ in range(images // len(texts)))
        guided = bool(arguments.get("do_classifier_free_guidance", False))
        self._encoded = [(tensor, known) for tensor, known in self._encoded if tensor() is not None]
        if texts is not None:
            self._encoded.append((weakref.ref(embeddings), texts))
        text_length = None
        if self._host.family.text_length is not None:  # of embeddings that were given, rather than what the call says
            text_length = embeddings.shape[1] - self._pipeline.tokenizer_max_length
            arguments = {**arguments, "max_sequence_length": text_length}
        encode = functools.partial(_encode, encode_prompt, arguments)
        # what else has the form of a text is the negative prompt's
        negatives = tuple(
            x for x in others if isinstance(x, Tensor) and x.ndim == 3 and x.shape[-1] == embeddings.shape[-1]
        )
        is_negative = self._is_negative(arguments)
        return Prompt(
            texts, images, guided, embeddings, encode, text_length, negatives, is_negative, self._shares_real
        )

    def _texts(self, arguments: dict[str, Any], read: Read) -> Texts:
        prompts = _listed(arguments["prompt"])
        per_tokenizer = []
        # in this order: an SDXL refiner has the second tokenizer only, and encodes `prompt` with it
        for (reader, record), first in zip(read, self._host.family.readers, strict=False):
            length = None if reader.length is None else arguments.get(reader.length)
            row = {
                "start": self._pipeline.tokenizer_max_length if reader.follows else 0,
                "dropped": 0 if reader.dropped is None else reader.dropped(self._pipeline, record.tokenizer),
                "name": reader.tokenizer,
                # a row that was seen has the pipeline's own length
                "max_length": None if record.rows else length,
            }
            texts = _listed(arguments.get(first.prompt) or prompts)
            per_tokenizer.append([self._tokenized(text, record, number, row) for number, text in enumerate(texts)])
        return tuple(zip(*per_tokenizer, strict=True))

    def _tokenized(self, text: str, record: Record, number: int, row: dict[str, Any]) -> TokenizedText:
        convert = getattr(self._pipeline, "maybe_convert_prompt", None)

        def spell_out(phrase: str) -> str:
            return phrase if convert is None else convert(phrase, record.tokenizer)

        return record.tokenized(spell_out(text), number, spell_out=spell_out, **row)

    def _texts_of(self, embeddings: Tensor) -> Texts | None:
        """The texts of embeddings that this listener saw being made."""
        return next((texts for tensor, texts in self._encoded if tensor() is embeddings), None)


@torch.no_grad()
def _encode(encode_prompt: Callable[..., Any], arguments: dict[str, Any], texts: list[str]) -> Tensor:
    """Call ``encode_prompt`` again with other texts and everything else as it was."""
    ours = {
        "prompt": texts,
        "prompt_2": None,
        "prompt_3": None,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
        **dict.fromkeys(name for name in arguments if name.startswith("negative_") or name.endswith("prompt_embeds")),
    }
    encoded = encode_prompt(**{name: ours.get(name, value) for name, value in arguments.items()})
    return encoded[0] if isinstance(encoded, tuple) else encoded


def _copied(prompt: Any) -> Any:
    """A list of prompts of our own: some pipelines write templates into the one they are given."""
    return list(prompt) if isinstance(prompt, list) else prompt


def _listed(prompt: str | Sequence[str]) -> list[str]:
    return [prompt] if isinstance(prompt, str) else list(prompt)
