"""Tokens that are being trained, and the control that shows them to the layers of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

import weft
from weft.attach import Control, LayerInfo, LayerRequest, Step
from weft.attach.extra_text import ExtraText
from weft.methods.soft_tokens import SoftTokens


class TokenBank(nn.Module):
    """One set of tokens as parameters.

    Attributes:
        tokens: [m, C] fp32.
        offsets: [buckets, C] fp32, or None.
    """

    def __init__(self, start: SoftTokens) -> None:
        """They begin as those of ``start``."""
        super().__init__()
        self.tokens = nn.Parameter(start.tokens.clone())
        self.offsets = None if start.offsets is None else nn.Parameter(start.offsets.clone())
        self._start = start

    def shown(self, timestep: float, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """The tokens at ``timestep``, [m, C]; made of ``values`` ("tokens", "offsets") in place of the parameters."""
        values = dict(self.named_parameters()) if values is None else values
        tokens, offsets = values["tokens"], values.get("offsets")
        return tokens if offsets is None else tokens + offsets[self._start.bucket(timestep)]

    def learnt(self, values: Mapping[str, Tensor] | None = None) -> SoftTokens:
        """The tokens as they are now, or of ``values``, on the CPU."""
        values = dict(self.named_parameters()) if values is None else values
        kept = {name: value.detach().float().cpu().clone() for name, value in values.items()}
        return replace(self._start, tokens=kept["tokens"], offsets=kept.get("offsets"))


class TrainedTokens(Control):
    """Shows the layers of ``blocks`` the tokens that are being trained.

    Attributes:
        tokens_at: The tokens [m, C] at a timestep, for passes outside of ``showing``: pictures drawn meanwhile.
    """

    def __init__(self, blocks: Sequence[str]) -> None:
        self.tokens_at: Callable[[float], Tensor] | None = None
        self._blocks = tuple(blocks)
        self._request: LayerRequest | None = None
        self._is_told = False

    @contextmanager
    def showing(self, tokens: Tensor) -> Iterator[None]:
        """The passes meanwhile see ``tokens`` [m, C]."""
        self._show(tokens)
        self._is_told = True
        try:
            yield
        finally:
            self._is_told = False

    def begin_step(self, step: Step) -> None:
        if self.tokens_at is not None and not self._is_told:
            self._show(self.tokens_at(step.timestep).to(step.generation.model_dtype))

    def _show(self, tokens: Tensor) -> None:
        row = torch.zeros(1, dtype=torch.int64, device=tokens.device)
        self._request = LayerRequest(extra=ExtraText(tokens[None], row))

    def request(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        return self._request if layer.is_cross and layer.name.startswith(self._blocks) else None


def check_served(attachment: weft.Attachment, *, who: str) -> None:
    """Refuse a model with attention that weft does not serve: it would not know a text for several pictures.

    Raises:
        ValueError: There is some.
    """
    if attachment.skipped:
        name, reason = attachment.skipped[0]
        raise ValueError(
            f"{who}: needs the attention of the whole model; {name} {reason}; give it back its own "
            "(`pipe.unet.set_default_attn_processor()`, `pipe.unload_ip_adapter()`)"
        )
