"""A batch of pictures and captions, and those of its pictures that go through the model together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.train.diffusion import TextStates


@dataclass(frozen=True, eq=False)
class CaptionedLatents:
    """A batch of B pictures and their captions, as ``PairBatches`` makes it.

    Attributes:
        latents: [B, C, h, w] fp32, clean.
        noise: N(0, 1), [B or 1, C, h, w].
        drawn: [1] int64, the time of the whole batch as ``Noising.timestep`` takes it; or [B], each picture its own.
        states: [B, Nk, C], the encoded captions, of each picture its own.
        pooled: [B, Cp]; Cp is 0 where the model takes none.
        time_ids: [B, 6], read by SDXL alone.
        alike: [B, 2] int64, numbers of picture and caption: a picture is not compared with another caption of its
            own, nor with its own caption a second time.
    """

    latents: Tensor
    noise: Tensor
    drawn: Tensor
    states: Tensor
    pooled: Tensor
    time_ids: Tensor
    alike: Tensor

    def chunks(self, rows_at_once: int | None) -> tuple[Tensor, ...]:
        """Numbers of the pictures that come in one pass; of one picture where each has its own time."""
        count = len(self.latents)
        at_once = 1 if len(self.drawn) > 1 else rows_at_once or count
        return torch.split(torch.arange(count, device=self.latents.device), at_once)

    def noise_of(self, rows: Tensor) -> Tensor:
        """That of some pictures, [R, C, h, w]."""
        return (self.noise if len(self.noise) == 1 else self.noise[rows]).expand_as(self.latents[rows])

    def drawn_for(self, rows: Tensor) -> Tensor:
        """The one time of some pictures that come in one pass, [1]."""
        return self.drawn if len(self.drawn) == 1 else self.drawn[rows]

    def text(self, captions: Tensor | None = None) -> TextStates:
        """Encoded captions by their numbers; None: all."""
        states, pooled = (part if captions is None else part[captions] for part in (self.states, self.pooled))
        return TextStates(states, pooled if pooled.shape[1] else None)
