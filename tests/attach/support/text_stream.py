"""Tokens that joint blocks see before their text, put there by hooks: what soft tokens are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def before_the_text(shown: Iterable[tuple[nn.Module, Callable[[], Tensor]]]) -> Iterator[None]:
    """Each block gets [its tokens [m, C], text], asked for again in each pass, and passes on the text alone."""
    handles = []
    for block, tokens_of in shown:
        handles.append(block.register_forward_pre_hook(_inserting(tokens_of), with_kwargs=True))
        handles.append(block.register_forward_hook(_dropping(tokens_of)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _inserting(tokens_of: Callable[[], Tensor]) -> Callable[..., Any]:
    def insert(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        text: Tensor = kwargs["encoder_hidden_states"]
        longer = torch.cat([tokens_of().expand(len(text), -1, -1), text], 1)
        return args, {**kwargs, "encoder_hidden_states": longer}

    return insert


def _dropping(tokens_of: Callable[[], Tensor]) -> Callable[..., Any]:
    def drop(block: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return output[0][:, len(tokens_of()) :], output[1]

    return drop
