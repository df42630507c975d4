"""A bank of encoded scenes, so that a diffusion step pays neither rendering nor the autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from weft.train.core import load_checkpoint, save_atomically

from .vae import images_of

CHUNK = 64  # scenes encoded at once


@dataclass(frozen=True)
class LatentBank:
    """Posterior of every scene, in units of the scaled latents: entry i belongs to ``scene(seed, i)``.

    Attributes:
        mean, std: [scenes, 4, 16, 16] fp16 on the CPU.
    """

    mean: Tensor
    std: Tensor

    def sample(self, indices: Tensor, noise: Tensor) -> Tensor:
        """Latents [B, 4, 16, 16] float32 of the scenes ``indices`` [B], drawn with ``noise`` of the same shape."""
        return self.mean[indices].float() + self.std[indices].float() * noise


def trained_bank(run: Path, seed: int, size: int, accelerator: Accelerator) -> LatentBank:
    """The bank of the autoencoder in ``run``/vae, kept beside it; both denoisers use it.

    Raises:
        FileNotFoundError: The autoencoder is not trained yet.
    """
    trained = run / "vae" / "model"
    if not trained.is_dir():
        raise FileNotFoundError(f"diffusion: no autoencoder in {trained}; run the vae stage first")
    vae = AutoencoderKL.from_pretrained(trained).to(accelerator.device)
    with accelerator.main_process_first():
        return latent_bank(vae, seed, size, run / "vae" / "bank.pt")


@torch.no_grad()
def latent_bank(vae: AutoencoderKL, seed: int, size: int, path: Path) -> LatentBank:
    """Encode training scenes 0 to ``size`` - 1, or read them from ``path`` if an earlier run left them there."""
    saved = load_checkpoint(path)
    if saved is None or len(saved["mean"]) != size:
        mean = torch.empty(size, vae.config.latent_channels, 16, 16, dtype=torch.float16)
        std = torch.empty_like(mean)
        for first in tqdm(range(0, size, CHUNK), desc="latents", unit="batch"):
            indices = range(first, min(first + CHUNK, size))
            posterior = vae.encode(images_of(seed, indices).to(vae.device)).latent_dist
            mean[indices.start : indices.stop] = posterior.mean * vae.config.scaling_factor
            std[indices.start : indices.stop] = posterior.std * vae.config.scaling_factor
        saved = {"mean": mean, "std": std}
        save_atomically(saved, path)
    return LatentBank(saved["mean"], saved["std"])
