"""Stage one: the autoencoder, on scenes drawn as they are needed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from weft.train.core import Batch, torch_generator

from ..model import LATENT_CHANNELS, LATENT_SIZE, build_vae
from ..rendering import render
from ..world import Scene, scene
from .config import VaeConfig
from .stage import averaged, fit_stage

SCALE_SCENES = 1024  # scenes whose latents set the scaling factor


class VaeObjective(nn.Module):
    """Reconstruction and KL of a batch of images."""

    def __init__(self, vae: AutoencoderKL, kl_weight: float) -> None:
        super().__init__()
        self.vae = vae
        self.kl_weight = kl_weight

    def forward(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Losses of ``images`` [B, 3, h, w] in [-1, 1], with the posterior sampled by ``noise`` [B, 4, h/4, w/4]."""
        return self.losses(self.vae.encode(images).latent_dist, images, noise)

    def losses(self, posterior: Any, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The same, of images that are encoded."""
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        decoded = self.vae.decode(mean + torch.exp(0.5 * log_variance) * noise).sample.float()
        l1, l2 = F.l1_loss(decoded, images), F.mse_loss(decoded, images)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()  # nats a latent element
        return {"loss": l1 + l2 + self.kl_weight * kl, "l1": l1, "l2": l2, "kl": kl}


def images_of(seed: int, indices: range) -> Tensor:
    """Training scenes as [B, 3, h, w] float32 in [-1, 1]."""
    return images_of_scenes(scene(seed, i) for i in indices)


def images_of_scenes(scenes: Iterable[Scene]) -> Tensor:
    """Scenes as [B, 3, h, w] float32 in [-1, 1]."""
    pixels = np.stack([render(one) for one in scenes])  # [B, h, w, 3]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def fit_vae(config: VaeConfig, seed: int, folder: Path, accelerator: Accelerator) -> AutoencoderKL:
    """Train the autoencoder and write it to ``folder``/model, with its scaling factor measured."""
    torch.manual_seed(seed)
    skip = accelerator.process_index * config.batch_size  # samples that go to the processes before this one

    def batch_at(samples: int) -> Batch:
        first = samples + skip
        noise = torch.randn(
            config.batch_size, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=torch_generator(seed, first)
        )
        return images_of(seed, range(first, first + config.batch_size)), noise

    objective = VaeObjective(build_vae(), config.kl_weight).train()
    average = fit_stage("vae", objective, batch_at, config, seed, folder, accelerator)
    vae = averaged(objective, average).vae
    vae.register_to_config(scaling_factor=1.0 / latent_std(vae, seed))
    if accelerator.is_main_process:
        vae.save_pretrained(folder / "model")
    return vae


@torch.no_grad()
def latent_std(vae: AutoencoderKL, seed: int) -> float:
    """Standard deviation of the unscaled latents, over all elements of ``SCALE_SCENES`` training scenes."""
    chunks = [range(i, i + 64) for i in range(0, SCALE_SCENES, 64)]
    latents = [vae.encode(images_of(seed, chunk).to(vae.device)).latent_dist.mode() for chunk in chunks]
    return float(torch.cat(latents).std())
