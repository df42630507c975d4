"""Tiny UNets of four levels and two layers, as Stable Diffusion 1.5 has them, with branches beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny_pipelines as tiny
import torch
from diffusers import StableDiffusionInpaintPipeline
from torch import Tensor

from weft.methods.powerpaint.network import Branch, beside

PLACES = 28
# what no tensor shows (heads, groups) as in Stable Diffusion 1.5
BASE: dict[str, Any] = {
    "sample_size": tiny.SIDE // 2,
    "block_out_channels": (32, 32, 64, 64),
    "layers_per_block": 2,
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
}


def unet(**changes: Any) -> Any:
    torch.manual_seed(0)
    return tiny.unet({**BASE, **changes})


def branch(beside_of: Any, strength: float = 0.05) -> Branch:
    """A branch with other weights than the UNet; it adds nothing where ``strength`` is 0."""
    made = beside(beside_of)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in made.unet.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator).to(weight))
        for convolution in (*made.down, made.mid, *made.up):
            for weight in convolution.parameters():
                weight.copy_(strength * torch.randn(weight.shape, generator=generator))
    return made


def pipeline(folder: Path) -> Any:
    """A stock inpainting pipeline around a text-to-image UNet."""
    return tiny.sd1(folder, StableDiffusionInpaintPipeline, unet=unet())


def inputs(batch: int = 2, channels: int = 4, side: int = 16, tokens: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, channels, side, side, generator=generator)
    return sample, torch.tensor(411), torch.randn(batch, tokens, 32, generator=generator)
