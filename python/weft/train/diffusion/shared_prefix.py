"""What a model computes of a picture before it reads any text, once for all captions that it is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weft.attach import Host


@dataclass(frozen=True, eq=False)
class Repeats:
    """How rows of a batch repeat fewer pictures.

    Attributes:
        firsts: int64 [R], a row of each picture.
        origin: int64 [P], of every row which picture it is.
    """

    firsts: Tensor
    origin: Tensor

    @classmethod
    def each(cls, pictures: int, times: int, device: torch.device) -> Repeats:
        """Every picture ``times`` times in a row."""
        numbers = torch.arange(pictures, device=device)
        return cls(numbers * times, numbers.repeat_interleave(times))

    @classmethod
    def all(cls, pictures: int, times: int, device: torch.device) -> Repeats:
        """All pictures, ``times`` times over."""
        numbers = torch.arange(pictures, device=device)
        return cls(numbers, numbers.repeat(times))


@contextmanager
def shared_prefix(host: Host, repeats: Repeats | None) -> Iterator[None]:
    """Each picture of the passes meanwhile, which have one timestep, goes through the layers before the text once.

    Args:
        host: Its model is called.
        repeats: Which rows are the same picture; None shares nothing.
    """
    # a checkpoint runs layers again in the backward pass, when it is not known any more which rows are equal
    if repeats is None or host.model.is_gradient_checkpointing:
        yield
        return
    firsts, origin = repeats.firsts, repeats.origin

    def narrow(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return tuple(map(one_each, args)), {name: one_each(value) for name, value in kwargs.items()}

    def one_each(value: Any) -> Any:
        return value[firsts] if isinstance(value, Tensor) and len(value) == len(origin) else value

    def widen(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output[origin]

    hooks = []
    try:
        for layer in host.family.layers_before_text(host.model):
            hooks.append(layer.register_forward_pre_hook(narrow, with_kwargs=True))
            hooks.append(layer.register_forward_hook(widen))
        yield
    finally:
        for hook in hooks:
            hook.remove()
