"""A batch of pictures and captions, and those of its pictures that go through the model together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.attach import TextStates


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
        wrong_states: [B, J, Nk, C], captions that are close to a picture's own and wrong; None where there are none.
        wrong_pooled: [B, J, Cp].
        wrong_count: [B] int64, how many of the J there are.
    """

    latents: Tensor
    noise: Tensor
    drawn: Tensor
    states: Tensor
    pooled: Tensor
    time_ids: Tensor
    alike: Tensor
    wrong_states: Tensor | None = None
    wrong_pooled: Tensor | None = None
    wrong_count: Tensor | None = None

    @property
    def is_wrong(self) -> Tensor:
        """Which of the J wrong captions there are, bool [B, J]."""
        if self.wrong_states is None or self.wrong_count is None:
            return torch.zeros(len(self.latents), 0, dtype=torch.bool, device=self.latents.device)
        return torch.arange(self.wrong_states.shape[1], device=self.latents.device) < self.wrong_count[:, None]

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

    def wrong_text(self, rows: Tensor) -> TextStates | None:
        """The J wrong captions of each of some pictures, [R * J, ...]."""
        return None if self.wrong_states is None else self.others(rows, rows.new_zeros(len(rows), 0))

    def others(self, rows: Tensor, negatives: Tensor) -> TextStates:
        """For each of R pictures the captions ``negatives`` [R, K], then the J wrong ones: [R * (K + J), ...]."""
        states, pooled = self.states[negatives], self.pooled[negatives]
        if self.wrong_states is not None and self.wrong_pooled is not None:
            states = torch.cat([states, self.wrong_states[rows]], 1)
            pooled = torch.cat([pooled, self.wrong_pooled[rows]], 1)
        return TextStates(states.flatten(0, 1), pooled.flatten(0, 1) if pooled.shape[2] else None)
