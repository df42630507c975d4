"""Further tokens on their way into a joint block: they pass the block's own modulation beside its text.

Hooks around ``norm1_context`` put them behind the text and take them out again, so that they are modulated as the
model modulates its text, each row of the batch by its own embedding of the timestep, and only once. From there they go
to the processor of the block's joint attention; neither the attention itself nor what follows it sees a longer text.

Relied on beyond the public interface: the model's ``context_embedder`` and ``transformer_blocks``, of these
``norm1_context`` and ``attn``, and that the norm takes the text first, and gives it first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from weft.attach.processors.joint import JointSeam
from weft.attach.records import ExtraText


def carry_tokens(model: Any) -> tuple[Any, ...]:
    """Put the hooks into every block of ``model``, where they do nothing until a layer is to see further tokens.

    Returns:
        The handles that remove them.
    """
    handles = []
    for block in model.transformer_blocks:
        carrier = _Carrier(block.attn, model.context_embedder)
        handles.append(block.norm1_context.register_forward_pre_hook(carrier.bring))
        handles.append(block.norm1_context.register_forward_hook(carrier.take))
    return tuple(handles)


class _Carrier:
    """The hooks of one block. Its processor is looked up in every call, since it may be exchanged."""

    def __init__(self, attn: Any, embed: nn.Module) -> None:
        self._attn = attn
        self._embed = embed

    def bring(self, norm: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Put the tokens behind the text."""
        extra = self._extra()
        if extra is None:
            return None
        text, *rest = args
        tokens = extra.bank.index_select(0, extra.row)  # [1, m, C]
        if extra.space == "conditioning":
            tokens = self._embed(tokens)
        return (torch.cat([text, tokens.expand(len(text), -1, -1)], 1), *rest)

    def take(self, norm: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Take them out again, and leave them with the processor."""
        extra = self._extra()
        if extra is None:
            return None
        # a block whose text goes no further gives the text alone, others gates behind it
        both: Tensor = output if isinstance(output, Tensor) else output[0]
        length = both.shape[1] - extra.bank.shape[1]
        self._attn.processor.tokens = both[:, length:]
        return both[:, :length] if isinstance(output, Tensor) else (both[:, :length], *output[1:])

    def _extra(self) -> ExtraText | None:
        """What is to be added; nothing where weft does not serve the attention, as in a copy of the model."""
        processor = self._attn.processor
        if not issubclass(type(processor), JointSeam) or processor.plan is None:
            return None
        return processor.plan.request.extra
