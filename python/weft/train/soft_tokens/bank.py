"""Tokens that are being trained, and the control that shows them to the layers of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

import weft
from weft.attach import Control, ExtraText, LayerInfo, LayerRequest, Step
from weft.methods.soft_tokens import SoftTokens, Space, block_of, check_blocks, check_served


class TokenBank(nn.Module):
    """Tokens as parameters, with the axes of ``SoftTokens``.

    Attributes:
        tokens: [m, C] or [L, m, C] fp32.
        offsets: [buckets, C] or [buckets, L, C] fp32, or None.
    """

    def __init__(self, start: SoftTokens) -> None:
        """They begin as those of ``start``."""
        super().__init__()
        self.tokens = nn.Parameter(start.tokens.clone())
        self.offsets = None if start.offsets is None else nn.Parameter(start.offsets.clone())
        self._start = start

    def shown(self, timestep: float, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """The tokens at ``timestep``, shaped as ``tokens``; made of ``values`` in place of the parameters."""
        values = dict(self.named_parameters()) if values is None else values
        tokens, offsets = values["tokens"], values.get("offsets")
        return tokens if offsets is None else tokens + offsets[self._start.bucket(timestep)][..., None, :]

    def learnt(self, values: Mapping[str, Tensor] | None = None) -> SoftTokens:
        """The tokens as they are now, or of ``values``, on the CPU."""
        values = dict(self.named_parameters()) if values is None else values
        kept = {name: value.detach().float().cpu().clone() for name, value in values.items()}
        return replace(self._start, tokens=kept["tokens"], offsets=kept.get("offsets"))


class TrainedTokens(Control):
    """Shows the layers of some blocks the tokens that are being trained.

    Attributes:
        tokens_at: The tokens at a timestep, for passes outside of ``showing``: pictures drawn meanwhile.
    """

    def __init__(self, blocks: Sequence[str], space: Space = "conditioning") -> None:
        """``blocks`` and ``space`` as of ``SoftTokens``."""
        self.tokens_at: Callable[[float], Tensor] | None = None
        self._blocks, self._space = check_blocks(blocks, who="fit_soft_tokens"), space
        self._requests: tuple[LayerRequest, ...] = ()  # of each block, or one of all
        self._is_overridden = False

    @contextmanager
    def showing(self, tokens: Tensor) -> Iterator[None]:
        """The passes meanwhile see ``tokens``, [m, C] in all blocks, or [L, m, C] each block its own."""
        self._show(tokens)
        with self._overridden():
            yield

    @contextmanager
    def hiding(self) -> Iterator[None]:
        """The passes meanwhile see no tokens: the model is as it was."""
        self._requests = ()
        with self._overridden():
            yield

    @contextmanager
    def _overridden(self) -> Iterator[None]:
        self._is_overridden = True
        try:
            yield
        finally:
            self._is_overridden = False

    def attached(self, layers: tuple[LayerInfo, ...]) -> None:
        check_served(layers, self._blocks, who="fit_soft_tokens")

    def begin_step(self, step: Step) -> None:
        if self.tokens_at is not None and not self._is_overridden:
            self._show(self.tokens_at(step.timestep).to(step.generation.model_dtype))

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        block = block_of(layer.name, self._blocks) if layer.is_cross else None
        return None if block is None or not self._requests else self._requests[min(block, len(self._requests) - 1)]

    def _show(self, tokens: Tensor) -> None:
        row = torch.zeros(1, dtype=torch.int64, device=tokens.device)
        sets = (tokens,) if tokens.ndim == 2 else tokens.unbind()
        self._requests = tuple(LayerRequest(extra=ExtraText(one[None], row, self._space)) for one in sets)


def check_attention(attachment: weft.Attachment, *, who: str) -> None:
    """Refuse a model with attention that weft does not serve: it would not know a text for several pictures.

    Raises:
        ValueError: There is some.
    """
    if attachment.skipped:
        name, reason = attachment.skipped[0]
        raise ValueError(
            f"{who}: needs the attention of the whole model; {name} {reason}; give it back its own "
            "(`set_default_attn_processor()`, `unload_ip_adapter()`)"
        )
