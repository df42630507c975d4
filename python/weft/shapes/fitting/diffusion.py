"""Stage two: UNet and text encoder together, on the latent bank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from weft.train.randomness import torch_generator

from ..captions import caption
from ..model import build_scheduler, build_text_encoder, build_unet
from ..tokenizer import build_tokenizer
from ..world import scene
from .bank import LatentBank, latent_bank
from .config import DiffusionConfig
from .loop import Batch, fit


class DiffusionObjective(nn.Module):
    """Noise prediction for captioned latents."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, snr_gamma: float) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.snr_gamma = snr_gamma
        self.scheduler: DDIMScheduler = build_scheduler()

    def forward(self, latents: Tensor, noise: Tensor, timesteps: Tensor, token_ids: Tensor) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            latents: [B, 4, 16, 16], scaled, clean.
            noise: N(0, 1) of the same shape; the target.
            timesteps: [B] int64.
            token_ids: [B, 77] int64.
        """
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        # no attention mask and the normalised last state: what StableDiffusionPipeline.encode_prompt gives
        text = self.text_encoder(token_ids).last_hidden_state
        predicted = self.unet(noisy, timesteps, text).sample.float()
        mse = (predicted - noise).square().mean(dim=(1, 2, 3))  # [B]
        weight = min_snr_weight(self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps], self.snr_gamma)
        return {"loss": (weight * mse).mean(), "mse": mse.mean()}


def min_snr_weight(alphas_cumprod: Tensor, gamma: float) -> Tensor:
    """Loss weights [B] for noise prediction, ``min(snr, gamma) / snr``; ones for ``gamma`` = 0.

    Source:
        Hang et al. 2023, arXiv:2303.09556, section 3.4.
    """
    if gamma == 0:
        return torch.ones_like(alphas_cumprod)
    snr = alphas_cumprod / (1.0 - alphas_cumprod)
    return snr.clamp(max=gamma) / snr


def token_ids_of(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """[B, 77] int64, padded and cut exactly as the stock pipeline does it."""
    return tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids


def batches(
    bank: LatentBank, tokenizer: CLIPTokenizer, config: DiffusionConfig, seed: int, rank: int
) -> Callable[[int], Batch]:
    """The function from the samples seen to the next batch: latents, noise, timesteps and token ids."""

    def caption_of(index: int, sample: int) -> str:
        rng = np.random.default_rng([seed, sample])
        return "" if rng.random() < config.caption_dropout else caption(scene(seed, index), rng)

    def batch_at(samples: int) -> Batch:
        first = samples + rank * config.batch_size
        generator = torch_generator(seed, first)
        indices = torch.randint(len(bank.mean), (config.batch_size,), generator=generator)
        posterior_noise, noise = torch.randn(2, config.batch_size, *bank.mean.shape[1:], generator=generator)
        # one timestep from each of B equal slices, so that a batch's loss says less about its luck
        offsets = torch.rand(config.batch_size, generator=generator) + torch.arange(config.batch_size)
        timesteps = ((offsets / config.batch_size) ** config.timestep_power * 1000).long().clamp(max=999)
        texts = [caption_of(index, first + i) for i, index in enumerate(indices.tolist())]
        return bank.sample(indices, posterior_noise), noise, timesteps, token_ids_of(tokenizer, texts)

    return batch_at


def fit_diffusion(config: DiffusionConfig, seed: int, run: Path, accelerator: Accelerator) -> None:
    """Train UNet and text encoder on the latents of ``run``/vae; the weights are in ``run``/diffusion/checkpoint.pt.

    Raises:
        FileNotFoundError: The autoencoder is not trained yet.
        Interrupted: See ``fit``.
    """
    folder, trained = run / "diffusion", run / "vae" / "model"
    if not trained.is_dir():
        raise FileNotFoundError(f"diffusion: no autoencoder in {trained}; run the vae stage first")
    vae = AutoencoderKL.from_pretrained(trained).to(accelerator.device)
    with accelerator.main_process_first():
        bank = latent_bank(vae, seed, config.bank_size, folder / "bank.pt")
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    objective = DiffusionObjective(build_unet(), build_text_encoder(tokenizer), config.snr_gamma)
    batch_at = batches(bank, tokenizer, config, seed, accelerator.process_index)
    fit("diffusion", objective, batch_at, config, folder, accelerator)
