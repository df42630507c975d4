"""The prompt behind embeddings that no ``encode_prompt`` of the pipeline made, as their user describes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from weft.attach.families.host import Host
from weft.attach.records import TextReader
from weft.attach.text.prompt import Prompt
from weft.attach.text.tokenized import TokenizedText


def described(host: Host, text: str | Sequence[str], embeds: Tensor, negative_embeds: Tensor | None) -> Prompt:
    """The prompt of ``embeds`` [images, Nk, C]; arguments as of ``Attachment.describe_prompt``.

    Raises:
        ValueError: There is no pipeline with a tokenizer, or the numbers of texts and rows do not fit.
    """
    who = "Attachment.describe_prompt"
    texts = [text] if isinstance(text, str) else list(text)
    tokenizers = host.tokenizers()
    if not tokenizers:
        raise ValueError(f"{who}: words need the tokenizer of a pipeline, and there is none; give token positions")
    if embeds.ndim != 3 or not texts or len(embeds) % len(texts):
        raise ValueError(
            f"{who}: `embeds` must be [images, tokens, channels] with as many images for each text; got "
            f"{list(embeds.shape)} for {len(texts)} texts"
        )
    per_text = [
        tuple(_tokenized(one, reader, tokenizer, embeds.shape[1]) for reader, tokenizer in tokenizers) for one in texts
    ]
    return Prompt(
        tuple(known for known in per_text for _ in range(len(embeds) // len(texts))),
        images=len(embeds),
        guided=negative_embeds is not None,
        embeddings=embeds,
        negatives=() if negative_embeds is None else (negative_embeds,),
        shares_real=host.family.shares_real,
    )


def _tokenized(text: str, reader: TextReader, tokenizer: Any, length: int) -> TokenizedText:
    """A text in a conditioning of ``length`` tokens: one row of its tokenizer, or several behind each other."""
    limit = int(tokenizer.model_max_length)
    if reader.follows or length <= limit or length % limit:
        return TokenizedText(text, tokenizer, max_length=None if reader.follows else length, name=reader.tokenizer)
    ids = list(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)
    start, end = tokenizer("", add_special_tokens=True).input_ids[:2]
    content = limit - 2  # every row has a start and an end of its own
    row: list[int] = []
    mask: list[bool] = []
    for first in range(0, length // limit * content, content):
        part = ids[first : first + content]
        row += [start, *part, end, *[tokenizer.pad_token_id] * (content - len(part))]
        mask += [bool(part)] * (len(part) + 2) + [False] * (content - len(part))
    return TokenizedText.recorded(text, tokenizer, row, [int(x) for x in mask], name=reader.tokenizer)
