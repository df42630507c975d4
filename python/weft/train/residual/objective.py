"""What ``fit_residual`` minimises: the denoising loss of a frozen model with low-rank factors in its projections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.attach import GatedProjections, ProjectionInfo, ProjectionTerms, TextStates, resolve
from weft.train.core import torch_generator
from weft.train.diffusion import Noising, differentiated
from weft.train.distribution import DistributionTerm, Views
from weft.train.encoded import pooled_of
from weft.train.residual.config import Init

RANDOM_STD = 0.01  # of both factors where neither starts at zero


class ResidualObjective(nn.Module):
    """The denoising loss of a model whose projections have one concept's factors; the factors are its parameters.

    Attributes:
        down: [r, channels in] fp32 a layer, in the order of the projections.
        up: [channels out, r] fp32.
        term: What is added to the loss; None for nothing.
    """

    denoiser: Any
    states: Tensor
    pooled: Tensor | None

    def __init__(
        self,
        denoiser: Any,
        projections: GatedProjections,
        noising: Noising,
        text: TextStates,
        *,
        init: Init = "lora",
        rank_share: float = 0.05,
        seed: int = 0,
    ) -> None:
        """``projections`` are those of ``denoiser``; their terms become the factors, drawn from ``seed``.

        The first of ``text`` is the caption of all pictures, the others are further wordings for ``term``.
        """
        super().__init__()
        self.denoiser = denoiser
        self.infos = projections.infos
        self.term: DistributionTerm | None = None
        self._projections, self._rank_share = projections, rank_share
        self._noising, self._family = noising, resolve(denoiser).family
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

    def forward(
        self, latents: Tensor, noise: Tensor, drawn: Tensor, time_ids: Tensor, *more: Tensor
    ) -> dict[str, Tensor]:
        """Mean squared error of the prediction, and what ``term`` adds.

        Args:
            latents: [B, C, h, w] fp32, clean.
            noise: N(0, 1) of the same shape.
            drawn: [B] int64, times as ``Noising.timestep`` takes them.
            time_ids: [B, 6], read by SDXL alone.
            more: Where there is a ``term``, the further fields of ``ConceptBatches``.
        """
        timesteps = self._noising.timestep(drawn)
        noisy = self._noising.noisy(latents, noise, timesteps)
        own = self._text(torch.zeros(len(latents), dtype=torch.int64, device=latents.device))
        predicted = self._predict(noisy, timesteps, own, time_ids)
        loss = F.mse_loss(predicted, self._noising.target(latents, noise, timesteps))
        if self.term is None:
            return {"loss": loss}
        pictures, noise_of_views, drawn_of_views, captions = more
        others = self._text(captions)
        views = Views(noise_of_views, drawn_of_views, others.states, pooled_of(others), pictures[:, :0])
        leaves = [*self.down, *self.up]
        found, slopes = self.term(self.generate, leaves, latents, own, pictures, views)
        added = differentiated(found["distribution"], leaves, slopes)
        return {"loss": loss + added, "denoising": loss.detach(), **found}

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Meanwhile the model has no factors."""
        kept = {name: projection.terms for name, projection in self._projections.items()}
        try:
            for projection in self._projections.values():
                projection.terms = None
            yield
        finally:
            for name, terms in kept.items():
                self._projections[name].terms = terms

    def generate(self, latents: Tensor, timestep: Tensor, text: TextStates) -> Tensor:
        """Predictions [P, C, h, w] fp32 of what a sampler has on its way, at ``timestep`` [1], under P captions."""
        return self._predict(latents, timestep.expand(len(latents)), text, None)

    def _predict(self, noisy: Tensor, timesteps: Tensor, text: TextStates, time_ids: Tensor | None) -> Tensor:
        """[B, C, h, w] fp32."""
        dtype = self.denoiser.dtype
        text = TextStates(text.states.to(dtype), text.pooled)
        return self._family.run(self.denoiser, noisy.to(dtype), timesteps, text, time_ids).float()

    def _text(self, captions: Tensor) -> TextStates:
        """Captions by their numbers."""
        return TextStates(self.states, self.pooled).part(captions)

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
        down = torch.randn(rank, info.in_width, generator=generator)
        up = torch.randn(info.width, rank, generator=generator)
        if init == "random":
            return nn.Parameter(down * RANDOM_STD), nn.Parameter(up * RANDOM_STD)
        return nn.Parameter(down / info.in_width**0.5), nn.Parameter(torch.zeros_like(up))
