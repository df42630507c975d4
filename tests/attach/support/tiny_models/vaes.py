"""Autoencoders of one level: an image of 2 x 2 pixels a latent."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, AutoencoderKLFlux2

SIDE = 32  # pixels; its latent is half of it
_SIZES: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (4, 8),
    "norm_num_groups": 4,
    "sample_size": SIDE,
}


def vae(channels: int = 4, **changes: Any) -> AutoencoderKL:
    options: dict[str, Any] = {"shift_factor": 0.06, "scaling_factor": 1.5, **changes}
    return AutoencoderKL(**_SIZES, latent_channels=channels, **options).eval()


def flux2_vae(channels: int = 4) -> AutoencoderKLFlux2:
    return AutoencoderKLFlux2(**_SIZES, latent_channels=channels).eval()
