"""What the objectives of ``fit_soft_tokens`` have in common: a batch in, losses out, tokens for their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weft.methods.soft_tokens import SoftTokens
from weft.train.diffusion import TextStates
from weft.train.frozen_denoiser import FrozenDenoiser
from weft.train.soft_tokens_bank import TokenBank


@dataclass(frozen=True, eq=False)
class CaptionedLatents:
    """A batch of B pictures and their captions, as ``PairBatches`` makes it.

    Attributes:
        latents: [B, C, h, w] fp32, clean.
        noise: N(0, 1), [B or 1, C, h, w].
        timestep: [1] int64, of the whole batch.
        states: [B, Nk, C], the encoded captions, of each picture its own.
        pooled: [B, Cp]; Cp is 0 where the model takes none.
        time_ids: [B, 6], read by SDXL alone.
        alike: [B, 2] int64, numbers of picture and caption: a picture is not compared with another caption of its
            own, nor with its own caption a second time.
    """

    latents: Tensor
    noise: Tensor
    timestep: Tensor
    states: Tensor
    pooled: Tensor
    time_ids: Tensor
    alike: Tensor

    def chunks(self, rows_at_once: int | None) -> tuple[Tensor, ...]:
        """Numbers of the pictures that come in one pass."""
        count = len(self.latents)
        return torch.arange(count, device=self.latents.device).split(rows_at_once or count)

    def noise_of(self, rows: Tensor) -> Tensor:
        """That of some pictures."""
        return self.noise if len(self.noise) == 1 else self.noise[rows]

    def text(self, captions: Tensor | None = None) -> TextStates:
        """Encoded captions by their numbers; None: all."""
        states, pooled = (part if captions is None else part[captions] for part in (self.states, self.pooled))
        return TextStates(states, pooled if pooled.shape[1] else None)


class SoftTokensObjective(nn.Module):
    """Base of the objectives. ``forward`` takes the fields of ``CaptionedLatents`` and returns scalars, "loss" first.

    Attributes:
        bank: The tokens that are wanted in the end.
    """

    def __init__(
        self, denoiser: FrozenDenoiser, start: SoftTokens, *, accelerator: Any, rows_at_once: int | None = None
    ) -> None:
        """Tokens begin as ``start``; ``rows_at_once`` pictures come in one pass, None for all."""
        super().__init__()
        self.bank = TokenBank(start)
        self._denoiser = denoiser
        self._accelerator = accelerator
        self._rows_at_once = rows_at_once

    def measure(self, batch: CaptionedLatents) -> float:
        """How badly pairs that were not trained on match, by the tokens of ``kept``; on this process alone."""
        raise NotImplementedError

    def kept(self) -> dict[str, Tensor]:
        """What is worth keeping of this moment, by the names of parameters."""
        return dict(self.named_parameters())

    def take_average(self, average: Mapping[str, Tensor]) -> None:
        """The loop keeps a moving average of the parameters in these very tensors."""

    def learnt(self, values: Mapping[str, Tensor] | None = None) -> SoftTokens:
        """The tokens as they are now, or of ``values``, on the CPU."""
        return self.bank.learnt(None if values is None else of_bank(values, "bank"))

    def _loss_scale(self) -> float:
        """What fp16 gradients are multiplied by meanwhile."""
        scaler = self._accelerator.scaler
        return 1.0 if scaler is None else float(scaler.get_scale())


def of_bank(values: Mapping[str, Tensor], bank: str) -> dict[str, Tensor]:
    """Those of an objective's parameters that belong to its bank of that name, by their names in there."""
    return {name.removeprefix(f"{bank}."): value for name, value in values.items() if name.startswith(f"{bank}.")}
