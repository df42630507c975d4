"""What a UNet computes of a picture before it reads any text, once for all captions that the picture is held against.

Relied on beyond the public interface: the UNet's ``conv_in``, ``down_blocks``, their ``resnets``, ``attentions`` and
``downsamplers``, and in a transformer block ``attn1``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def shared_prefix(unet: Any, origin: Tensor | None) -> Iterator[None]:
    """The passes meanwhile have equal pictures and one timestep; each picture goes through the first layers once.

    A layer whose input carries a gradient, as nothing before the text does, would be shared all the same: the rows
    are only gathered again behind it.

    Args:
        unet: What is called.
        origin: int64 [P], of every row of the batch which of the distinct pictures it is, all of them in the order of
            their first rows; None shares nothing.
    """
    # a checkpoint runs layers again in the backward pass, when it is not known any more which rows are equal
    if origin is None or unet.is_gradient_checkpointing:
        yield
        return
    firsts = _firsts(origin)

    def narrow(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return tuple(map(one_each, args)), {name: one_each(value) for name, value in kwargs.items()}

    def one_each(value: Any) -> Any:
        return value[firsts] if isinstance(value, Tensor) and len(value) == len(origin) else value

    def widen(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output[origin]

    hooks = []
    try:
        for layer in prefix(unet):
            hooks.append(layer.register_forward_pre_hook(narrow, with_kwargs=True))
            hooks.append(layer.register_forward_hook(widen))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def prefix(unet: Any) -> list[nn.Module]:
    """The costly layers before the first text: of Stable Diffusion XL, whose embedding of time has text in it, one."""
    found = [unet.conv_in]
    if unet.config.addition_embed_type is not None or unet.config.class_embed_type is not None:
        return found
    for block in unet.down_blocks:
        found.append(block.resnets[0])
        if getattr(block, "attentions", None):
            first = block.attentions[0].transformer_blocks[0]
            return found if first.only_cross_attention else [*found, first.attn1]
        found += [*block.resnets[1:], *(block.downsamplers or ())]
    return found


def _firsts(origin: Tensor) -> Tensor:
    """The first row of each distinct picture."""
    count = int(origin.max()) + 1
    return torch.stack([(origin == number).nonzero()[0, 0] for number in range(count)])
