"""Steps (a) and (b): objects among the tokens of the prompt, and their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class EagerObject:
    """One object.

    Attributes:
        phrase: Its words.
        first: Position of its first token, the start token counted.
        head: Position of its last token.
    """

    phrase: str
    first: int
    head: int

    @property
    def span(self) -> range:
        """T_o."""
        return range(self.first, self.head + 1)


def find_objects(tokenizer: Any, prompt: str, phrases: Sequence[str]) -> list[EagerObject]:
    """(a): the first place of each phrase. Equal phrases are one object.

    Raises:
        ValueError: A phrase is not in the prompt.
    """
    tokens = tokenizer(prompt).input_ids
    objects: dict[int, EagerObject] = {}
    for phrase in phrases:
        wanted = tokenizer(phrase).input_ids[1:-1]
        for first in range(len(tokens)):
            if tokens[first : first + len(wanted)] == wanted:
                head = first + len(wanted) - 1
                objects[head] = EagerObject(phrase, first, head)
                break
        else:
            raise ValueError(f"maskdiffusion_eager: {phrase!r} is not in the prompt {prompt!r}")
    return list(objects.values())


def encode(pipe: Any, text: str) -> Tensor:
    """[tokens, C], the text encoder's last states."""
    tokenizer, encoder = pipe.tokenizer, pipe.text_encoder
    ids = tokenizer(
        text, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    states: Tensor = encoder(ids.to(encoder.device))[0]
    return states[0]


def swapped_embedding(pipe: Any, prompt: str, objects: Sequence[EagerObject]) -> Tensor:
    """(b): [tokens, C], the prompt's embedding with each phrase as it is encoded alone."""
    embedding = encode(pipe, prompt)
    for found in objects:
        embedding[found.first : found.head + 1] = encode(pipe, found.phrase)[1 : 1 + len(found.span)]
    return embedding


def prompt_length(tokenizer: Any, prompt: str, source: str) -> int:
    """L, as the "tokenizer" counts or by the first "end" token."""
    tokens = torch.tensor(tokenizer(prompt).input_ids)
    return len(tokens) if source == "tokenizer" else int((tokens == tokenizer.eos_token_id).int().argmax()) + 1
