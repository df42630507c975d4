"""Where the words of a prompt are, read from the ids that the text encoder was given: decoding alone decides."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import ProcessorMixin

from .model import TinyModel

LONGEST = 8  # tokens of a word


class _Encoded(Exception):
    """The text encoder was called."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids


def tokenizer(model: TinyModel, pipe: Any) -> Any:
    assert model.text is not None
    found = getattr(pipe, model.text.tokenizer)
    return found.tokenizer if isinstance(found, ProcessorMixin) else found


def encoded(model: TinyModel, pipe: Any, prompt: Any) -> Tensor:
    """The ids [B, L] of ``prompt`` as a call of the pipeline gives them to its text encoder."""

    def stop(module: Any, args: Any, kwargs: Any) -> None:
        raise _Encoded(kwargs["input_ids"] if "input_ids" in kwargs else args[0])

    assert model.text is not None
    hook = getattr(pipe, model.text.encoder).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model.generate(pipe, prompt)
    except _Encoded as found:
        return found.ids
    finally:
        hook.remove()
    raise AssertionError("the pipeline did not encode the prompt")


def positions(model: TinyModel, pipe: Any, prompt: str, word: str) -> list[int]:
    """Positions of the tokens of ``word`` in the text of the denoiser; it must occur there once.

    They are the shortest run of ids that decodes to the word; the mark of a space, where it is a token of its own in
    front of the word, is not among them.
    """
    assert model.text is not None
    ids, tokens = encoded(model, pipe, prompt)[0].tolist(), tokenizer(model, pipe)
    for length in range(1, LONGEST + 1):
        starts = [at for at in range(len(ids)) if tokens.decode(ids[at : at + length]).strip().lower() == word]
        if starts:
            (start,) = starts
            first = start - model.text.dropped(pipe)
            return list(range(first, first + length))
    raise AssertionError(f"{word!r} is not in {tokens.decode(ids)!r}")
