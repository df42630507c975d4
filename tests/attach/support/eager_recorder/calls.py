"""The record of a pass, and the definition of attention on what it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Call:
    """One call of attention as it left the model's own code: after norms, rotations and masks, before the softmax.

    Attributes:
        layer: Name of the attention module within the denoiser, such as ``"transformer_blocks.0.attn"``.
        query: [B, H, Nq, D].
        key: [B, Hk, Nk, D] where Hk divides H; query head h uses key head ``h // (H // Hk)``.
        value: [B, Hk, Nk, D].
        mask: Broadcasts to [B, H, Nq, Nk]: False hides a key, a number is added to the logit. None without a mask.
        scale: Factor of the logits.
        output: [B, H, Nq, D], what the stock call returned.
    """

    layer: str
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scale: float
    output: Tensor

    def probabilities_of_heads(self) -> Tensor:
        """[B, H, Nq, Nk], fp32, computed in fp64; a row whose keys are all hidden is 0."""
        groups = self.query.shape[1] // self.key.shape[1]
        key = self.key.double().repeat_interleave(groups, 1)
        logits = self.query.double() @ key.transpose(-1, -2) * self.scale
        if self.mask is not None and self.mask.dtype == torch.bool:
            logits = logits.masked_fill(self.mask.logical_not(), -torch.inf)
        elif self.mask is not None:
            logits = logits + self.mask.double()
        return logits.softmax(-1).nan_to_num(0.0).float()

    def probabilities(self) -> Tensor:
        """[B, Nq, Nk], fp32: the mean over heads."""
        return self.probabilities_of_heads().mean(1)

    def expected_output(self) -> Tensor:
        """[B, H, Nq, D], fp32: what ``output`` must be but for rounding, if this record is right."""
        groups = self.query.shape[1] // self.value.shape[1]
        return self.probabilities_of_heads() @ self.value.float().repeat_interleave(groups, 1)


@dataclass(frozen=True)
class Pass:
    """One forward pass of a denoiser.

    Attributes:
        arguments: Of the call, by the names of the denoiser's ``forward``; the tensors themselves, so that a pass can
            be known by the identity of its text.
        calls: In order; a layer is there once for every call of attention that it makes.
    """

    arguments: dict[str, Any]
    calls: list[Call] = field(default_factory=list)

    @property
    def layers(self) -> list[str]:
        """Names in order, each once."""
        return list(dict.fromkeys(call.layer for call in self.calls))

    def of(self, layer: str, number: int = 0) -> Call:
        """The ``number``-th call of a layer."""
        return [call for call in self.calls if call.layer == layer][number]

    def probabilities(self) -> dict[str, Tensor]:
        """[B, Nq, Nk] of the first call of each layer, fp32, by its name."""
        return {layer: self.of(layer).probabilities() for layer in self.layers}
