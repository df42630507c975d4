"""Stage one of "inpainting": the shipped autoencoder learns plain pictures, which it was never shown.

It does not survive them as shipped: its group norms divide by the spread of a picture, and a picture of one colour has
next to none, so that the colour comes back wrong by a tenth of the range.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from weft.train.core import Batch, torch_generator

from ..load import pipeline
from ..model import LATENT_CHANNELS, LATENT_SIZE
from ..rendering import coverage
from ..vocabulary import IMAGE_SIZE
from ..world import Scene, scene
from .config import PlainConfig
from .stage import averaged, fit_stage
from .vae import VaeObjective, images_of_scenes

PLAIN = "plain"  # the stage's folder in a run
REACH = 2  # cells round an object whose latents it colours


class PlainObjective(VaeObjective):
    """Reconstruction of scenes and of their backgrounds, with the latents that are known of the scenes."""

    def __init__(self, vae: AutoencoderKL, kl_weight: float, anchor_weight: float) -> None:
        super().__init__(vae, kl_weight)
        self.anchor_weight = anchor_weight

    def forward(self, images: Tensor, noise: Tensor, known: Tensor, free: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Losses of one batch.

        Args:
            images: [2 B, 3, h, w] in [-1, 1], scenes and then their backgrounds.
            noise: [2 B, 4, h/4, w/4], of the posterior.
            known: [B, 4, h/4, w/4], unscaled latents of the scenes.
            free: [B, 1, h/4, w/4], 1 in cells that no object reaches: there the background has the same latents.
        """
        posterior = self.vae.encode(images).latent_dist
        scenes, plain = (posterior.mean.float() * self.vae.config.scaling_factor).chunk(2)
        known = known * self.vae.config.scaling_factor
        weight = free.expand_as(known)
        anchor = F.mse_loss(scenes, known) + ((plain - known).square() * weight).sum() / weight.sum().clamp(min=1)
        losses = self.losses(posterior, images, noise)
        return {**losses, "loss": losses["loss"] + self.anchor_weight * anchor, "anchor": anchor}


def free_cells(drawn: Scene) -> Tensor:
    """[1, h/4, w/4] float32, 1 in cells that no object of a scene reaches."""
    taken = torch.zeros(1, IMAGE_SIZE, IMAGE_SIZE)
    for item in drawn.objects:
        taken[0] += torch.from_numpy(coverage(item.shape, item.x, item.y, item.size)).float()
    cells = F.max_pool2d(taken, IMAGE_SIZE // LATENT_SIZE)
    return (F.max_pool2d(cells, 2 * REACH + 1, 1, REACH) == 0).float()


def fit_plain_vae(config: PlainConfig, seed: int, folder: Path, accelerator: Accelerator) -> AutoencoderKL:
    """Train the autoencoder of the shipped model further and write it to ``folder``/model; its scaling factor stays.

    Raises:
        FileNotFoundError: The text-to-image model is not installed.
        Interrupted: See ``fit``.
    """
    shipped, vae = (pipeline("sd1").vae for _ in range(2))
    skip = accelerator.process_index * config.batch_size

    def batch_at(samples: int) -> Batch:
        first = samples + skip
        scenes = [scene(seed, number) for number in range(first, first + config.batch_size)]
        pictures = images_of_scenes(scenes)
        with torch.no_grad():
            known = shipped.encode(pictures).latent_dist.mean
        noise = torch.randn(
            2 * len(scenes), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=torch_generator(seed, first)
        )
        plain = images_of_scenes(replace(one, objects=()) for one in scenes)
        return torch.cat([pictures, plain]), noise, known, torch.stack([free_cells(one) for one in scenes])

    objective = PlainObjective(vae, config.kl_weight, config.anchor_weight).train()
    average = fit_stage("plain", objective, batch_at, config, seed, folder, accelerator)
    vae = averaged(objective, average).vae
    if accelerator.is_main_process:
        vae.save_pretrained(folder / "model")
    return vae
