"""A frozen model as objectives see it: noisy pictures, targets, and what it predicts of them under many captions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weft.attach import Host, TextStates
from weft.ops import pairwise_error
from weft.train.diffusion import Noising, Repeats, shared_prefix
from weft.train.soft_tokens.bank import TrainedTokens
from weft.train.soft_tokens.captioned_latents import CaptionedLatents


@dataclass(frozen=True, eq=False)
class NoisyPictures:
    """Pictures that go through the model together.

    Attributes:
        latents: [P, C, h, w], noisy, in the dtype of the model.
        target: [P, C, h, w] fp32, what the model should predict; none where it is unknown.
        timestep: [1], as the model gets it.
        time_ids: [P, 6], read by SDXL alone; None for square pictures that nothing was cut off.
        repeats: Which of them are the same; None where all differ.
    """

    latents: Tensor
    target: Tensor
    timestep: Tensor
    time_ids: Tensor | None
    repeats: Repeats | None = None

    @property
    def time(self) -> float:
        """The timestep as a number."""
        return float(self.timestep)

    def each(self, times: int) -> NoisyPictures:
        """Every picture ``times`` times in a row."""
        latents = self.latents.repeat_interleave(times, 0)
        time_ids = None if self.time_ids is None else self.time_ids.repeat_interleave(times, 0)
        return replace(self, latents=latents, time_ids=time_ids, repeats=Repeats.each(*self._rows(times)))

    def all(self, times: int) -> NoisyPictures:
        """All pictures, ``times`` times over."""
        latents = self.latents.repeat(times, 1, 1, 1)
        time_ids = None if self.time_ids is None else self.time_ids.repeat(times, 1)
        return replace(self, latents=latents, time_ids=time_ids, repeats=Repeats.all(*self._rows(times)))

    def _rows(self, times: int) -> tuple[int, int, torch.device]:
        return len(self.latents), times, self.latents.device


class FrozenDenoiser:
    """A model whose layers see the tokens of a control."""

    def __init__(self, host: Host, control: TrainedTokens, noising: Noising) -> None:
        """``control`` is attached to the model of ``host``."""
        self._host, self._control, self._noising = host, control, noising

    def noisy(self, batch: CaptionedLatents, rows: Tensor) -> NoisyPictures:
        """Some pictures of a batch, which share a time."""
        latents, noise = batch.latents[rows], batch.noise_of(rows)
        timestep = self._noising.timestep(batch.drawn_for(rows))
        times = timestep.expand(len(latents))
        return NoisyPictures(
            self._noising.noisy(latents, noise, times).to(self._host.model.dtype),
            self._noising.target(latents, noise, times),
            timestep,
            batch.time_ids[rows],
        )

    def predict(self, tokens: Tensor, pictures: NoisyPictures, text: TextStates) -> Tensor:
        """Predictions [P, C, h, w] fp32.

        A UNet computes keys and values of a caption once for all its pictures, and of a picture once what comes before
        any text. In a joint attention the text changes
        with the picture beside it, so there every pair goes through whole.

        Args:
            tokens: [m, C] or [L, m, C], what the layers see beside the text.
            pictures: P of them, a multiple of the captions.
            text: Captions, each for as many pictures, which lie together.
        """
        with self._control.showing(tokens.to(text.states.dtype)):
            return self._run(pictures, text)

    def generate(self, tokens: Tensor | None, latents: Tensor, timestep: Tensor, text: TextStates) -> Tensor:
        """Predictions [P, C, h, w] fp32 of what a sampler has on its way, each with its own caption.

        Args:
            tokens: As of ``predict``; None for what the control shows by itself.
            latents: [P, C, h, w], noisy, of any float dtype; of square pictures that nothing was cut off.
            timestep: [1].
            text: P captions.
        """
        pictures = NoisyPictures(latents.to(self._host.model.dtype), latents[:0], timestep, None)
        return self._run(pictures, text) if tokens is None else self.predict(tokens, pictures, text)

    def _run(self, pictures: NoisyPictures, text: TextStates) -> Tensor:
        """Predictions [P, C, h, w] fp32 with whatever the control shows."""
        host = self._host
        with shared_prefix(host, pictures.repeats):
            return host.family.run(host.denoiser, pictures.latents, pictures.timestep, text, pictures.time_ids).float()

    def errors(self, tokens: Tensor, pictures: NoisyPictures, text: TextStates) -> Tensor:
        """Mean squared errors [R, C] fp32 of R pictures under each of C captions."""
        rows, columns = len(pictures.latents), len(text.states)
        found = self.predict(tokens, pictures.all(columns), text)
        return pairwise_error(found.view(columns, rows, *found.shape[1:]).transpose(0, 1), pictures.target)

    def errors_of_own(self, tokens: Tensor, pictures: NoisyPictures, text: TextStates) -> Tensor:
        """Mean squared errors [R, J] fp32 of R pictures, each under J captions of its own, which lie together."""
        rows, count = len(pictures.latents), len(text.states) // len(pictures.latents)
        found = self.predict(tokens, pictures.each(count), text)
        return pairwise_error(found.view(rows, count, *found.shape[1:]), pictures.target)
