"""Which prompt a pass of the denoiser carries, and in which rows: found by the text of the pass, never by position.

The text tensor is compared with the embeddings that were announced: by identity as long as it stays the same object,
which costs nothing, otherwise by value, which waits for the device once per tensor.
"""

from __future__ import annotations

import collections
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.attach.text.prompt import Prompt

_KEPT = 16  # prompts that are remembered; regional prompting uses several in a step
NOWHERE = slice(0, 0)


@dataclass(frozen=True)
class Match:
    """What a text tensor carries.

    Attributes:
        prompt: The prompt; None for a negative one, or for none that is known.
        rows: The rows that carry it, one for each of its images.
        is_known: The text was announced, if only as a negative prompt.
    """

    prompt: Prompt | None
    rows: slice
    is_known: bool


UNKNOWN = Match(None, NOWHERE, False)


class KnownTexts:
    """The prompts that were announced, newest first, and what recent text tensors were found to carry."""

    def __init__(self) -> None:
        self.prompts: collections.deque[Prompt] = collections.deque(maxlen=_KEPT)
        self._found: list[tuple[weakref.ref[Tensor], int, Match]] = []

    def announce(self, prompt: Prompt) -> None:
        """Remember ``prompt``."""
        self.prompts.appendleft(prompt)
        # what carried nothing known may carry this
        self._found = [entry for entry in self._found if entry[2].is_known]

    def clear(self) -> None:
        """Forget everything."""
        self.prompts.clear()
        self._found.clear()

    def match(self, text: Tensor) -> Match:
        """What ``text`` [B, Nk, C] carries; ``UNKNOWN`` where none of it was announced."""
        version = _version(text)
        for known, known_version, match in self._found:
            if known() is text and known_version == version:
                return match
        match = next(self._matches(text), UNKNOWN)
        alive = [entry for entry in self._found if entry[0]() is not None and entry[0]() is not text]
        self._found = [*alive[-_KEPT:], (weakref.ref(text), version, match)]
        return match

    def _matches(self, text: Tensor) -> Iterator[Match]:
        for prompt in self.prompts:
            rows = _rows_of(prompt.embeddings, text, start=prompt.images if prompt.guided else 0)
            if rows is not None:
                yield Match(None, NOWHERE, True) if prompt.is_negative else Match(prompt, rows, True)
            elif any(_is_made_of(negative, text) for negative in prompt.negatives):
                yield Match(None, NOWHERE, True)


def _rows_of(embeddings: Tensor, text: Tensor, start: int = 0) -> slice | None:
    """The rows of ``text`` that are ``embeddings`` [n, Nk, C], n in a row; looked for at ``start`` first."""
    count = len(embeddings)
    if text.ndim != embeddings.ndim or text.shape[1:] != embeddings.shape[1:] or text.device != embeddings.device:
        return None
    if text is embeddings:
        return slice(0, count)
    known = embeddings.to(text.dtype)
    starts = [start, *(first for first in range(0, len(text), max(count, 1)) if first != start)]
    for first in starts:
        rows = text[first : first + count]
        if len(rows) == count and torch.equal(rows, known):
            return slice(first, first + count)
    return None


def _is_made_of(embeddings: Tensor, text: Tensor) -> bool:
    """Whether ``text`` is ``embeddings`` and nothing else, once or several times."""
    count = len(embeddings)
    return len(text) % max(count, 1) == 0 and all(
        _rows_of(embeddings, text[first : first + count]) is not None for first in range(0, len(text), max(count, 1))
    )


def _version(text: Tensor) -> int:
    """Version counter of a tensor; 0 where it has none (made under inference_mode)."""
    return 0 if text.is_inference() else text._version
