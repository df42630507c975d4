"""Texts in which some tokens are learnt vectors, encoded by the pipeline itself.

Its tokenizer and its table of embeddings stay untouched: a short word marks where the vectors go, and while the text
is being encoded a hook puts them in place of that word's embedding. So everything else that ``encode_prompt`` does
(several encoders, LoRA, textual inversion, the dtype) happens as always, and there is nothing to undo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from weft.attach.families import resolve
from weft.attach.records import TextStates

STAND_IN = "a"  # one token in every vocabulary of CLIP's kind: a letter that ends a word
_EDGES = 2  # start and end token


@dataclass(frozen=True, eq=False)
class LearntText:
    """A text, and learnt vectors behind it or before it.

    Attributes:
        text: As a user writes it.
        vectors: One [n, C] for each text encoder of the pipeline, C the width of its embeddings; none for text alone.
        leads: The vectors come before the text.
    """

    text: str
    vectors: tuple[Tensor, ...] = field(default=(), repr=False)
    leads: bool = False

    @property
    def count(self) -> int:
        """Tokens that the vectors take."""
        return len(self.vectors[0]) if self.vectors else 0

    @property
    def words(self) -> str:
        """The text with a stand-in for every vector."""
        stand_ins = " ".join([STAND_IN] * self.count)
        parts = (stand_ins, self.text) if self.leads else (self.text, stand_ins)
        return " ".join(part for part in parts if part)


def word_widths(pipe: Any) -> tuple[int, ...]:
    """Width of the token embeddings of every text encoder, in the order of ``LearntText.vectors``."""
    return tuple(encoder.get_input_embeddings().weight.shape[1] for _, encoder in _encoders(pipe))


def embeddings_of(pipe: Any, word: str) -> tuple[Tensor, ...]:
    """The embedding [C] of a word's first token in every text encoder, fp32 on the CPU.

    Raises:
        ValueError: The word has no token.
    """
    found = []
    for tokenizer, encoder in _encoders(pipe):
        ids = tokenizer(word, add_special_tokens=False).input_ids
        if not ids:
            raise ValueError(f"weft: {word!r} has no token; use another word")
        found.append(encoder.get_input_embeddings().weight[ids[0]].detach().float().cpu().clone())
    return tuple(found)


def token_limit(pipe: Any, count: int) -> int:
    """Tokens of text that fit beside ``count`` vectors.

    Raises:
        ValueError: None would.
    """
    length = min(int(tokenizer.model_max_length) for tokenizer, _ in _encoders(pipe))
    if length - _EDGES < count:
        raise ValueError(
            f"weft: {count} learnt vectors do not fit the {length} tokens of the text encoder, start and end included"
        )
    return length - _EDGES - count


def token_count(pipe: Any, text: str) -> int:
    """Tokens of ``text`` in the tokenizer that makes the most of them, start and end not counted."""
    return max(len(_ids(pipe, tokenizer, text)) - _EDGES for tokenizer, _ in _encoders(pipe))


def encode(pipe: Any, texts: Sequence[LearntText]) -> TextStates:
    """Encode texts as the pipeline encodes prompts; gradients reach the vectors.

    What does not fit the text encoder is cut off at the end by the tokenizer, vectors too: see ``token_limit``.

    Args:
        pipe: A Stable Diffusion 1.x, 2.x or XL pipeline.

    Raises:
        ValueError: A tokenizer that reads the stand-ins otherwise.
        RuntimeError: The text encoder did not look its words up, as one that was compiled does not.
    """
    with ExitStack() as hooks:
        checks = []
        for number, (tokenizer, encoder) in enumerate(_encoders(pipe)):
            placed = [
                (_places(pipe, tokenizer, text), text.vectors[number] if text.vectors else None) for text in texts
            ]
            checks.append(hooks.enter_context(_hooked(encoder.get_input_embeddings(), placed)))
        encoded = pipe.encode_prompt(
            prompt=[text.words for text in texts],
            device=pipe.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
    if not all(has_run() for has_run in checks):
        raise RuntimeError(
            "weft: the text encoder did not look words up in its table, so that learnt vectors had no effect; is it "
            "compiled, or replaced? give the pipeline its own text encoder"
        )
    # Stable Diffusion gives (states, negative), XL (states, negative, pooled, negative pooled)
    return TextStates(encoded[0], encoded[2] if len(encoded) > 2 else None)


def _encoders(pipe: Any) -> list[tuple[Any, Any]]:
    """(tokenizer, text encoder), as many as the pipeline has."""
    return resolve(pipe).sharing_readers()


def _ids(pipe: Any, tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text, start and end included, nothing cut off; textual inversion spelt out."""
    convert = getattr(pipe, "maybe_convert_prompt", None)
    spelt = text if convert is None else convert(text, tokenizer)
    return list(tokenizer(spelt, truncation=False, verbose=False).input_ids)


def _places(pipe: Any, tokenizer: Any, text: LearntText) -> range:
    """Where the stand-ins of a text are, as far as the text encoder sees them."""
    if not text.count:
        return range(0)
    ids, bare = _ids(pipe, tokenizer, text.words), _ids(pipe, tokenizer, text.text)
    first = 1 if text.leads else len(ids) - 1 - text.count
    (stand_in,) = tokenizer(STAND_IN, add_special_tokens=False).input_ids[:1]
    if ids != [*bare[:first], *[stand_in] * text.count, *bare[first:]]:
        raise ValueError(
            f"weft: {type(tokenizer).__name__} does not read {text.words!r} as text and {text.count} tokens; "
            "learnt vectors need a tokenizer of CLIP's kind"
        )
    limit = int(tokenizer.model_max_length) - 1
    return range(min(first, limit), min(first + text.count, limit))


@contextmanager
def _hooked(table: Any, placed: Sequence[tuple[range, Tensor | None]]) -> Iterator[Callable[[], bool]]:
    """Put each row's vectors in their places whenever ``table`` is asked; gives whether it was."""
    calls = []

    def replace(module: Any, args: tuple[Any, ...], embedded: Tensor) -> Tensor:
        calls.append(len(embedded))
        found = embedded.clone()
        for row, (places, vectors) in enumerate(placed):
            if vectors is not None and len(places):
                found[row, places.start : places.stop] = vectors[: len(places)].to(embedded)
        return found

    hook = table.register_forward_hook(replace)
    try:
        yield lambda: calls == [len(placed)]
    finally:
        hook.remove()
