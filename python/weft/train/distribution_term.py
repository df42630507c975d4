"""Fake-to-fake and fake-to-real through a diffusion model: what is added to the objective of a fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from weft.attach.source import denoiser_of
from weft.methods.distribution_losses import Features, Loss, distribution_loss, features_of
from weft.train.chunked_gradient import differentiated
from weft.train.diffusion import TextStates, encode_captions
from weft.train.distribution_config import DistributionConfig
from weft.train.distribution_views import Views
from weft.train.feature_sources import DecodedPictures, Denoise, DenoiserFeatures
from weft.train.noising import Noising


class DistributionTerm:
    """The losses of what a denoiser makes of noisy pictures or of noise, under one caption of each or two.

    Of a batch the generated pictures of one view are told from one another, and the real ones are its clean latents.
    Pictures of one caption, as far as it is the first view's, are no negatives of each other. Features are
    differentiated first, down to the generated latents and no further: sources stay as they are, and memory is that of
    features of a chunk, and then of a chunk of the denoiser.
    """

    def __init__(
        self,
        config: DistributionConfig,
        noising: Noising,
        source: Features,
        vae: Any,
        *,
        accelerator: Any,
        rows_at_once: int | None = None,
    ) -> None:
        """``source`` gives features of latents; losses with features of their own see what ``vae`` decodes."""
        self._config, self._noising = config, noising
        self._rows_at_once, self._accelerator = rows_at_once, accelerator
        seen = {own: self._by_rows_of(DecodedPictures(vae, own)) for loss in config.losses if (own := loss.features)}
        self._losses: list[Loss] = [
            replace(loss, features=seen[loss.features]) if loss.features else loss for loss in config.losses
        ]
        self._source = self._by_rows_of(source)
        self._group = torch.distributed.group.WORLD if accelerator.num_processes > 1 else None

    def __call__(
        self, denoise: Denoise, latents: Tensor, text: TextStates, alike: Tensor, views: Views
    ) -> dict[str, Tensor]:
        """The weighted loss, with a gradient to what ``denoise`` is made of, and each loss by its name without.

        Args:
            denoise: The denoiser with what is being trained.
            latents: [B, C, h, w] fp32, clean.
            text: B captions, of the first view.
            alike: int64 [B, n], numbers of the picture and, where they differ, of its caption.
            views: What generation begins from.

        Returns:
            "distribution", and "f2f" and "f2r" as far as they are asked for; zeros where all pictures of a batch are
            one, or have one caption, and nothing can be told apart.
        """
        if not self._can_be_told_apart(alike):
            return dict.fromkeys(("distribution", *(loss.name for loss in self._losses)), latents.new_zeros(()))
        generated = [self._generated(denoise, latents, text, views, number) for number in range(views.views)]
        leaves = [view.detach().requires_grad_() for view in generated]
        with torch.enable_grad():
            found = self._loss_of(leaves, latents, alike)
        loss = self._config.weight * found.pop("loss")
        if torch.is_grad_enabled():
            scaler = self._accelerator.scaler
            scale = 1.0 if scaler is None else float(scaler.get_scale())  # lest fp16 gradients of features vanish
            slopes = torch.autograd.grad(scale * loss, leaves)
            loss = differentiated(loss.detach(), generated, [slope / scale for slope in slopes])
        return {"distribution": loss, **found}

    def _loss_of(self, generated: list[Tensor], latents: Tensor, alike: Tensor) -> dict[str, Tensor]:
        first, second = generated[0], generated[1] if len(generated) > 1 else None
        features = features_of(self._losses, self._source, first, second, latents)
        classes = alike[:, 1] if alike.shape[1] > 1 else None
        return distribution_loss(self._losses, *features, images=alike[:, 0], classes=classes, group=self._group)

    def _generated(self, denoise: Denoise, latents: Tensor, text: TextStates, views: Views, number: int) -> Tensor:
        """Clean latents [B, C, h, w] of a view."""
        noise, said = views.noise_of(number), views.text_of(number, text)

        def clean(rows: Tensor) -> Tensor:
            if self._config.through == "chain":
                return self._drawn(denoise, noise[rows], said.part(rows))
            timestep = self._noising.timestep(views.drawn)
            times = timestep.expand(len(rows))
            noisy = self._noising.noisy(latents[rows], noise[rows], times)
            return self._noising.split(noisy, denoise(noisy, timestep, said.part(rows)), times)[0]

        return self._by_rows(clean, len(latents), latents.device)

    def _drawn(self, denoise: Denoise, noise: Tensor, text: TextStates) -> Tensor:
        """Clean latents at the end of a chain of DDIM steps, evenly apart, that begins at noise."""
        count, last = self._config.chain_steps, self._noising.times - 1
        clean = torch.zeros_like(noise)
        for step in range(count):
            drawn = torch.tensor([round(last * (count - step) / count)], device=noise.device)
            times = self._noising.timestep(drawn).expand(len(noise))
            noisy = noise if step == 0 else self._noising.noisy(clean, noise, times)
            clean, noise = self._noising.split(noisy, denoise(noisy, times[:1], text), times)
        return clean

    def _by_rows_of(self, source: Features) -> Features:
        """``source``, some rows at a time."""

        def features(latents: Tensor) -> Tensor:
            found = self._by_rows(lambda rows: source(latents[rows]), len(latents), latents.device)
            return found.float()

        return features

    def _by_rows(self, function: Callable[[Tensor], Tensor], count: int, device: torch.device) -> Tensor:
        """What ``function`` gives for rows by their numbers; each chunk is computed again for its gradient."""
        rows, at_once = torch.arange(count, device=device), self._rows_at_once or count
        if at_once >= count:
            return function(rows)
        return torch.cat([checkpoint(function, chunk, use_reentrant=False) for chunk in torch.split(rows, at_once)])

    def _can_be_told_apart(self, alike: Tensor) -> bool:
        """Whether there are several pictures, and several captions; the same on every process."""
        everybodys = self._accelerator.gather(alike) if self._group is not None else alike
        return all(len(column.unique()) > 1 for column in everybodys.unbind(1))


def distribution_term(
    pipe: Any,
    config: DistributionConfig,
    noising: Noising,
    bare: Denoise,
    *,
    accelerator: Any,
    rows_at_once: int | None = None,
    text_length: int | None = None,
) -> DistributionTerm | None:
    """The term that ``config`` asks for; None where it has no losses.

    Args:
        pipe: Its text encoder says nothing, and its autoencoder decodes where losses look at pictures.
        config: Checked.
        noising: Of its denoiser.
        bare: The denoiser without what is being trained.
        accelerator: Its processes are told from one another too.
        rows_at_once: Pictures in one pass; None for all.
        text_length: As of ``encode_captions``.
    """
    if not config.losses:
        return None
    empty = encode_captions(pipe, [""], text_length)
    source = DenoiserFeatures(denoiser_of(pipe)[1], bare, noising, empty)
    return DistributionTerm(config, noising, source, pipe.vae, accelerator=accelerator, rows_at_once=rows_at_once)
