"""How a model's pictures become noisy, and what it predicts of them: along a schedule, or by flow matching."""

from __future__ import annotations

from typing import Protocol

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from weft.attach import Host
from weft.train.diffusion.latents import denoising_target, training_scheduler


class Noising(Protocol):
    """What a kind of model was trained on.

    Attributes:
        times: Numbers are drawn from 0 to below this; ``timestep`` says what they mean.
    """

    times: int

    def timestep(self, drawn: Tensor) -> Tensor:
        """What the model gets, [B], for ``drawn`` [B] int64; as a sampler passes it, 0 to 1000."""

    def noisy(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Latents [B, C, h, w] at ``timestep`` [B]."""

    def target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the model should predict of them, [B, C, h, w]."""

    def split(self, noisy: Tensor, predicted: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """(clean, noise), [B, C, h, w] each, that a prediction takes ``noisy`` at ``timestep`` [B] for."""


class Schedule:
    """A denoiser of epsilon, v or sample prediction, along the betas of its scheduler."""

    def __init__(self, scheduler: DDPMScheduler) -> None:
        self.times: int = scheduler.config.num_train_timesteps
        self._scheduler = scheduler

    def timestep(self, drawn: Tensor) -> Tensor:
        return drawn

    def noisy(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return self._scheduler.add_noise(latents, noise, timestep)

    def target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return denoising_target(self._scheduler, latents, noise, timestep)

    def split(self, noisy: Tensor, predicted: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        kept = self._scheduler.alphas_cumprod.to(noisy.device)[timestep][:, None, None, None].to(noisy)
        signal, spread = kept.sqrt(), (1 - kept).sqrt()
        kind = self._scheduler.config.prediction_type
        if kind == "v_prediction":
            return signal * noisy - spread * predicted, spread * noisy + signal * predicted
        if kind == "epsilon":
            return (noisy - spread * predicted) / signal, predicted
        return predicted, (noisy - signal * predicted) / spread


class Flow:
    """A denoiser of the velocity between picture and noise, on the straight path.

        z = (1 - s) x + s noise,   v = noise - x,   timestep = 1000 s

    s is even in [0, 1), or with ``shift`` other than 1 shift s / (1 + (shift - 1) s) of that, as samplers of larger
    pictures spend more of their steps at noise.

    Source:
        Esser et al. 2024, arXiv:2403.03206, sections 2 and 5.3.2.
    """

    def __init__(self, times: int = 1000, shift: float = 1.0) -> None:
        self.times, self._shift = times, shift

    def timestep(self, drawn: Tensor) -> Tensor:
        s = drawn.float() / self.times
        return 1000 * self._shift * s / (1 + (self._shift - 1) * s)

    def noisy(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return torch.lerp(latents, noise, (timestep / 1000)[:, None, None, None].to(latents))

    def target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        return noise - latents

    def split(self, noisy: Tensor, predicted: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        s = (timestep / 1000)[:, None, None, None].to(noisy)
        return noisy - s * predicted, noisy + (1 - s) * predicted


def noising_of(host: Host, *, shifted: bool = False) -> Noising:
    """That of the model, with the numbers of its scheduler; ``shifted`` by the shift that a flow's scheduler has.

    Raises:
        ValueError: A schedule of another kind, or ``shifted`` where there is no shift.
    """
    config, is_flow = host.pipeline.scheduler.config, host.family.is_flow
    kind = type(host.pipeline.scheduler).__name__
    if shifted and (not is_flow or "shift" not in config or config.get("use_dynamic_shifting", False)):
        raise ValueError(f"train: `shifted_time` needs a flow-matching scheduler with one shift; {kind} has none")
    if is_flow:
        return Flow(config.num_train_timesteps, float(config.shift) if shifted else 1.0)
    return Schedule(training_scheduler(host.pipeline))
