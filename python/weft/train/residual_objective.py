"""What ``fit_residual`` minimises: the denoising loss of a frozen UNet with low-rank factors in its projections."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.attach.projections import GatedProjections, ProjectionInfo, ProjectionTerms
from weft.train.diffusion import TextStates, denoising_target
from weft.train.randomness import torch_generator

Init = Literal["lora", "random"]

RANDOM_STD = 0.01  # of both factors where neither starts at zero


class ResidualObjective(nn.Module):
    """The denoising loss of a UNet whose projections have one concept's factors; the factors are its parameters.

    Attributes:
        down: [r, m] fp32 a layer, in the order of the projections.
        up: [m, r] fp32.
    """

    unet: Any
    states: Tensor
    pooled: Tensor | None

    def __init__(
        self,
        unet: Any,
        projections: GatedProjections,
        scheduler: Any,
        text: TextStates,
        *,
        init: Init = "lora",
        rank_share: float = 0.05,
        seed: int = 0,
    ) -> None:
        """``projections`` are those of ``unet``; their terms become the factors, drawn from ``seed``."""
        super().__init__()
        self.unet = unet
        self.scheduler: Any = scheduler
        self.infos = projections.infos
        self._rank_share = rank_share
        self.register_buffer("states", text.states)
        self.register_buffer("pooled", text.pooled)
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        for number, info in enumerate(projections.infos):
            down, up = self._start(info, init, torch_generator(seed, number))
            self.down.append(down)
            self.up.append(up)
            # added to the module's own output, so that training begins with the bits of the base model; as fast
            projections[info.name].terms = ProjectionTerms(self.down[number], self.up[number], keeps_base=True)

    def rank(self, info: ProjectionInfo) -> int:
        """Rank of a layer: 16, 32, 64 for widths of 320, 640, 1280."""
        return max(round(self._rank_share * info.width), 1)

    def forward(self, latents: Tensor, noise: Tensor, timesteps: Tensor, time_ids: Tensor) -> dict[str, Tensor]:
        """Mean squared error of the prediction.

        Args:
            latents: [B, C, h, w] fp32, clean.
            noise: N(0, 1) of the same shape.
            timesteps: [B] int64.
            time_ids: [B, 6], read by SDXL alone.
        """
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        text = self.states.to(self.unet.dtype).expand(len(latents), -1, -1)
        added = {}
        if self.pooled is not None:
            pooled = self.pooled.expand(len(latents), -1)
            added["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": time_ids.to(pooled.dtype)}
        predicted = self.unet(noisy.to(self.unet.dtype), timesteps, text, **added).sample
        target = denoising_target(self.scheduler, latents, noise, timesteps)
        return {"loss": F.mse_loss(predicted.float(), target)}

    def factors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(down, up) by layer, on the CPU."""

        def named(values: nn.ParameterList) -> dict[str, Tensor]:
            return {
                info.name: value.detach().float().cpu().clone() for info, value in zip(self.infos, values, strict=True)
            }

        return named(self.down), named(self.up)

    def _start(
        self, info: ProjectionInfo, init: Init, generator: torch.Generator
    ) -> tuple[nn.Parameter, nn.Parameter]:
        rank = self.rank(info)
        down = torch.randn(rank, info.width, generator=generator)
        up = torch.randn(info.width, rank, generator=generator)
        if init == "random":
            return nn.Parameter(down * RANDOM_STD), nn.Parameter(up * RANDOM_STD)
        return nn.Parameter(down / info.width**0.5), nn.Parameter(torch.zeros_like(up))
