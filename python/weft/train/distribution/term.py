"""Fake-to-fake and fake-to-real through a diffusion model: what is added to the objective of a fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from weft.attach import Host, TextStates
from weft.train.diffusion import Denoise, Noising, ShortChain
from weft.train.distribution.config import DistributionConfig
from weft.train.distribution.features import DecodedPictures, DenoiserFeatures
from weft.train.distribution.kinds import Features, Loss
from weft.train.distribution.losses import distribution_loss, features_of
from weft.train.distribution.negatives import linked, with_negatives
from weft.train.distribution.views import Views


class DistributionTerm:
    """The losses of what a denoiser makes of noisy pictures or of noise, under one caption of each or two.

    The generated pictures of one view in a batch are negatives of one another; the real ones are its clean latents.
    Pictures that have a caption in common are no negatives of each other. Latents are generated
    without gradients first; then features are differentiated down to them and no further, so that sources stay as they
    are, and at last every pass of the denoiser by itself. Memory is that of features of a chunk, or of one pass.
    """

    def __init__(
        self,
        config: DistributionConfig,
        noising: Noising,
        source: Features,
        vae: Any,
        *,
        bare: Callable[[], AbstractContextManager[None]] = nullcontext,
        accelerator: Any,
        rows_at_once: int | None = None,
    ) -> None:
        """``source`` gives features of latents, where ``bare``; other losses see what ``vae`` decodes."""
        self._config, self._noising, self._bare = config, noising, bare
        self._rows_at_once, self._accelerator = rows_at_once, accelerator
        seen = {own: self._by_rows_of(DecodedPictures(vae, own)) for loss in config.losses if (own := loss.features)}
        self._losses: list[Loss] = [
            replace(loss, features=seen[loss.features]) if loss.features else loss for loss in config.losses
        ]
        self._source = self._by_rows_of(source)
        self._group = torch.distributed.group.WORLD if accelerator.num_processes > 1 else None

    def __call__(
        self,
        denoise: Denoise,
        leaves: Sequence[Tensor],
        latents: Tensor,
        text: TextStates,
        alike: Tensor,
        views: Views,
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The weighted loss and each loss by its name; and derivatives of the first.

        Args:
            denoise: The denoiser with what is being trained.
            leaves: Of what that is made; without gradients (``torch.no_grad``) they get none.
            latents: [B, C, h, w] fp32, clean.
            text: B captions, of the first view.
            alike: int64 [B, n], numbers of the picture and, where not all have the same, of its caption.
            views: What generation begins from.

        Returns:
            "distribution", and "f2f" and "f2r" as far as they are asked for, all without gradient, zeros where all
            pictures of a batch are one, or share captions, and there are no negatives; and derivatives of
            "distribution" by the leaves.
        """
        slopes = [torch.zeros_like(leaf) for leaf in leaves]
        nothing = dict.fromkeys(("distribution", *(loss.name for loss in self._losses)), latents.new_zeros(()))
        ids = self._ids(alike, views)
        losses = with_negatives(self._losses, *ids)
        if not losses:
            return nothing, slopes
        chain = self._chain(views)
        drawn = []  # of every view the chunks: states of the chain, and their captions
        for number in range(views.views):
            start, captions = self._start(latents, views, number), views.text_of(number, text)
            texts = [captions.part(rows) for rows in self._chunks(torch.arange(len(latents), device=latents.device))]
            drawn.append(
                [(chain.run(denoise, *each), each[1]) for each in zip(self._chunks(start), texts, strict=True)]
            )
        with self._bare():
            generated = [torch.cat([states[-1] for states, _ in view]) for view in drawn]
            found, wanted = self._differentiated(losses, generated, latents, ids)
        if torch.is_grad_enabled():
            for view, slope in zip(drawn, wanted, strict=True):
                for (states, captions), part in zip(view, self._chunks(slope), strict=True):
                    for total, more in zip(slopes, chain.slopes(denoise, states, captions, part, leaves), strict=True):
                        total += more / self._scale
        return nothing | found, slopes

    def _ids(self, alike: Tensor, views: Views) -> tuple[Tensor, Tensor | None]:
        """Of the pictures of all processes [N], and if captions are known those that are equal where some are."""
        numbers = torch.cat([alike, views.captions], 1)
        if self._group is not None:
            numbers = self._accelerator.gather(numbers)
        return numbers[:, 0], linked(numbers[:, 1:]) if numbers.shape[1] > 1 else None

    def _own(self, ids: Tensor | None, count: int) -> Tensor | None:
        """Those of this process, [B]."""
        return None if ids is None else ids.narrow(0, self._accelerator.process_index * count, count)

    def _differentiated(
        self, losses: Sequence[Loss], generated: list[Tensor], latents: Tensor, ids: tuple[Tensor, Tensor | None]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The losses, and derivatives of the weighted one by the clean latents of each view, times ``_scale``."""
        views = [view.requires_grad_() for view in generated]
        with torch.enable_grad():
            second = views[1] if len(views) > 1 else None
            features = features_of(losses, self._source, views[0], second, latents)
            images, classes = (self._own(part, len(latents)) for part in ids)
            found = distribution_loss(losses, *features, images=images, classes=classes, group=self._group)
            loss = self._config.weight * found.pop("loss")
            slopes = torch.autograd.grad(self._scale * loss, views)
        return {"distribution": loss.detach(), **found}, list(slopes)

    def _chain(self, views: Views) -> ShortChain:
        if self._config.through == "x0":
            return ShortChain(self._noising, [views.drawn])
        count, last = self._config.chain_steps, self._noising.times - 1
        steps = [round(last * (count - step) / count) for step in range(count)]
        return ShortChain(self._noising, [torch.full_like(views.drawn, step) for step in steps])

    def _start(self, latents: Tensor, views: Views, number: int) -> Tensor:
        """What a view begins from, [B, C, h, w]: noisy pictures, or noise alone."""
        noise = views.noise_of(number)
        if self._config.through == "chain":
            return noise
        return self._noising.noisy(latents, noise, self._noising.timestep(views.drawn).expand(len(latents)))

    @property
    def _scale(self) -> float:
        """What fp16 gradients are multiplied by, so that they do not vanish."""
        scaler = self._accelerator.scaler
        return 1.0 if scaler is None else float(scaler.get_scale())

    def _chunks(self, x: Tensor) -> tuple[Tensor, ...]:
        """Rows of ``x`` that come in one pass."""
        return torch.split(x, self._rows_at_once or len(x))

    def _by_rows_of(self, source: Features) -> Features:
        """``source``, some rows at a time; each chunk is computed again for its gradient."""

        def features(latents: Tensor) -> Tensor:
            chunks = self._chunks(latents)
            if len(chunks) == 1:
                return source(latents).float()
            return torch.cat([checkpoint(source, chunk, use_reentrant=False) for chunk in chunks]).float()

        return features


def distribution_term(
    host: Host,
    config: DistributionConfig,
    noising: Noising,
    denoise: Denoise,
    bare: Callable[[], AbstractContextManager[None]],
    *,
    accelerator: Any,
    rows_at_once: int | None = None,
    text_length: int | None = None,
) -> DistributionTerm | None:
    """The term that ``config`` asks for; None where it has no losses.

    Args:
        host: Its text encoder reads the empty text, and its autoencoder decodes where losses look at pictures.
        config: Checked.
        noising: Of its denoiser.
        denoise: Runs that; while ``bare`` lasts without what is being trained.
        accelerator: Pictures of its processes are negatives of one another too.
        rows_at_once: Pictures in one pass; None for all.
        text_length: As of ``Host.encode_captions``.
    """
    if not config.losses:
        return None
    source = DenoiserFeatures(host, denoise, noising, host.encode_captions([""], text_length))
    options = {"accelerator": accelerator, "rows_at_once": rows_at_once}
    return DistributionTerm(config, noising, source, host.pipeline.vae, bare=bare, **options)
