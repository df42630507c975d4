"""Stage two of "sd1": UNet and text encoder together, on the latent bank."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from weft.train.diffusion import min_snr_weight

from ..model import build_scheduler, build_text_encoder, build_unet
from ..tokenizer import build_tokenizer
from .bank import trained_bank
from .captioned import captioned_batches, slices
from .config import DiffusionConfig
from .stage import fit_stage


class DiffusionObjective(nn.Module):
    """Noise prediction for captioned latents."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, snr_gamma: float) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.snr_gamma = snr_gamma
        self.scheduler: DDIMScheduler = build_scheduler()

    def forward(self, latents: Tensor, noise: Tensor, token_ids: Tensor, timesteps: Tensor) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            latents: [B, 4, 16, 16], scaled, clean.
            noise: N(0, 1) of the same shape; the target.
            token_ids: [B, 77] int64.
            timesteps: [B] int64.
        """
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        # no attention mask and the normalised last state: what StableDiffusionPipeline.encode_prompt gives
        text = self.text_encoder(token_ids).last_hidden_state
        predicted = self.unet(noisy, timesteps, text).sample.float()
        mse = (predicted - noise).square().mean(dim=(1, 2, 3))  # [B]
        weight = min_snr_weight(self.scheduler, timesteps, self.snr_gamma)
        return {"loss": (weight * mse).mean(), "mse": mse.mean()}


def timesteps_drawn(config: DiffusionConfig, generator: torch.Generator) -> tuple[Tensor]:
    """Timesteps [B] int64 of a batch."""
    shares = slices(config.batch_size, generator)
    return ((shares**config.timestep_power * 1000).long().clamp(max=999),)


def fit_diffusion(config: DiffusionConfig, seed: int, run: Path, accelerator: Accelerator) -> None:
    """Train UNet and text encoder on the latents of ``run``/vae; the weights are in ``run``/diffusion/checkpoint.pt.

    Raises:
        FileNotFoundError: The autoencoder is not trained yet.
        Interrupted: See ``fit``.
    """
    bank = trained_bank(run, seed, config.bank_size, accelerator)
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    objective = DiffusionObjective(build_unet(), build_text_encoder(tokenizer), config.snr_gamma).train()
    batch_at = captioned_batches(
        bank, tokenizer, config, partial(timesteps_drawn, config), seed, accelerator.process_index
    )
    fit_stage("diffusion", objective, batch_at, config, seed, run / "diffusion", accelerator)
