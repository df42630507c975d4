"""What every fit on a diffusion pipeline needs of it: latents and text encoded once, noise, targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from weft.train.images import View


@dataclass(frozen=True)
class Latents:
    """Posteriors of the autoencoder, one a view, scaled as the denoiser sees them; on the CPU.

    Attributes:
        mean, std: [views, C, h, w] fp32.
        time_ids: [views, 6] fp32, what SDXL is told of a picture's size and crop.
    """

    mean: Tensor
    std: Tensor
    time_ids: Tensor

    def sample(self, indices: Tensor, noise: Tensor) -> Tensor:
        """Latents [B, C, h, w] of the views ``indices`` [B], drawn with ``noise`` of the same shape."""
        return self.mean[indices] + self.std[indices] * noise


@dataclass(frozen=True)
class TextStates:
    """Encoded captions.

    Attributes:
        states: [texts, Nk, C].
        pooled: [texts, Cp] for SDXL, else None.
    """

    states: Tensor
    pooled: Tensor | None


@torch.no_grad()
def encode_views(pipe: Any, found: Sequence[View]) -> Latents:
    """Encode each view once. An autoencoder that overflows in fp16 (SDXL's) is run in fp32."""
    vae = pipe.vae
    is_widened = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if is_widened:
        vae.to(torch.float32)
    mean, std = [], []
    for view in found:  # one at a time: the autoencoder needs the most memory of all
        posterior = vae.encode(view.pixels[None].to(vae.device, vae.dtype)).latent_dist
        mean.append(posterior.mean.float().cpu())
        std.append(posterior.std.float().cpu())
    if is_widened:
        vae.to(torch.float16)
    shift, scale = getattr(vae.config, "shift_factor", None) or 0.0, vae.config.scaling_factor
    size = found[0].pixels.shape[-2:]
    time_ids = torch.tensor([[*view.original, *view.corner, *size] for view in found], dtype=torch.float32)
    return Latents((torch.cat(mean) - shift) * scale, torch.cat(std) * scale, time_ids)


@torch.no_grad()
def encode_captions(pipe: Any, captions: Sequence[str]) -> TextStates:
    """Encode captions as the pipeline encodes prompts."""
    encoded = pipe.encode_prompt(
        prompt=list(captions), device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    # Stable Diffusion gives (states, negative), XL (states, negative, pooled, negative pooled)
    return TextStates(encoded[0], encoded[2] if len(encoded) > 2 else None)


def training_scheduler(pipe: Any) -> DDPMScheduler:
    """The noise schedule that the pipeline's own scheduler was made from.

    Raises:
        ValueError: A schedule of another kind, such as flow matching.
    """
    config = pipe.scheduler.config
    kind = config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction", "sample") or "beta_schedule" not in config:
        raise ValueError(
            f"train: needs a denoiser of epsilon, v or sample prediction; {type(pipe.scheduler).__name__}"
        )
    return DDPMScheduler.from_config(config)


def denoising_target(scheduler: DDPMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the denoiser should give for ``scheduler.add_noise(latents, noise, timesteps)``.

    Source:
        Ho et al. 2020, arXiv:2006.11239 (noise); Salimans and Ho 2022, arXiv:2202.00512 (v).
    """
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    return noise if scheduler.config.prediction_type == "epsilon" else latents
