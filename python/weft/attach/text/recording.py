"""What tokenizers and text encoders read while a pipeline encodes prompts: the surest source of their rows."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from weft.attach.text.row import explains
from weft.attach.text.tokenized import TokenizedText, reader_of


@dataclass(frozen=True)
class Record:
    """What one tokenizer and its encoder have read, in order.

    Attributes:
        tokenizer: The tokenizer, or the processor that has it.
        texts: Every text that the tokenizer was given, chat template included.
        rows: (``input_ids`` [n], ``attention_mask`` [n] or None) of every sample of the encoder.
    """

    tokenizer: Any
    texts: list[str] = field(default_factory=list)
    rows: list[tuple[list[int], list[int] | None]] = field(default_factory=list)

    def tokenized(self, text: str, row: int, **others: Any) -> TokenizedText:
        """The prompt that is in the sample ``row`` of the encoder.

        Args:
            text: The prompt, after textual inversion.
            row: Its number among all samples; pipelines encode prompts in order, and negative ones after them.
            others: Further attributes of ``TokenizedText``; where the encoder was not called, they give the row.
        """
        if row >= len(self.rows):
            return TokenizedText(text, self.tokenizer, full=self._holding(text), **others)
        ids, mask = self.rows[row]
        full = self._holding(text) or self._changed(row) or self._decoded(text, row)
        return TokenizedText.recorded(text, self.tokenizer, ids, mask, full=full, **others)

    def _holding(self, text: str) -> str | None:
        """What the tokenizer was given for a prompt: the shortest, since prompts may hold each other."""
        return min((given for given in self.texts if text.strip() in given), key=len, default=None)

    def _changed(self, row: int) -> str | None:
        """What the tokenizer was given, by a pipeline that cleans prompts, if the row comes from it."""
        given = self.texts[row : row + 1]
        return next((one for one in given if explains(reader_of(self.tokenizer), one, *self.rows[row])), None)

    def _decoded(self, text: str, row: int) -> str | None:
        """What the row says, where a pipeline joins tokens of several texts; None if the prompt is not all in it."""
        ids, mask = self.rows[row]
        real = ids if mask is None else [one for one, is_real in zip(ids, mask, strict=True) if is_real]
        said = reader_of(self.tokenizer).decode(real, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(said) if text.strip() in said else None


@contextmanager
def recording(tokenizer: Any, encoder: nn.Module | None) -> Iterator[Record]:
    """Record what a tokenizer is given and an encoder reads meanwhile; both are as before at the end.

    Args:
        tokenizer: A tokenizer, or the processor that has it.
        encoder: Called with ``input_ids`` [B, n] and maybe an ``attention_mask``, or the former alone by its place.
    """
    record, reader = Record(tokenizer), reader_of(tokenizer)

    def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        mask = kwargs.get("attention_mask")
        if isinstance(ids, Tensor) and ids.ndim == 2:
            masks = mask.tolist() if isinstance(mask, Tensor) and mask.shape == ids.shape else [None] * len(ids)
            record.rows.extend(zip(ids.tolist(), masks, strict=True))

    stock = type(reader)
    hook = None if encoder is None else encoder.register_forward_pre_hook(read, with_kwargs=True)
    reader.__class__ = _listening(stock, record.texts)
    try:
        yield record
    finally:
        reader.__class__ = stock
        if hook is not None:
            hook.remove()


def _listening(stock: type, texts: list[str]) -> type:
    """The class of a tokenizer, with its calls noted: Python looks calls up in classes, not in instances."""

    @functools.wraps(stock.__call__)
    def call(self: Any, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        texts.extend([text] if isinstance(text, str) else [one for one in text or () if isinstance(one, str)])
        return stock.__call__(self, text, *args, **kwargs)

    return type(stock.__name__, (stock,), {"__call__": call, "__module__": stock.__module__})
