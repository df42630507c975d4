"""Bria: Flux's blocks; text of T5, padded with zeros, guidance in one batch."""

from __future__ import annotations

from typing import Any

from diffusers import BriaPipeline, BriaTransformer2DModel, FlowMatchEulerDiscreteScheduler

from . import encoders, tokens
from .model import HEIGHT, NEGATIVE, WIDTH, TinyModel
from .vaes import vae
from .weights import seeded, shown

LATENT = 4  # channels
BRIA: dict[str, Any] = {
    "in_channels": 4 * LATENT,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": encoders.WIDTH,
    "axes_dims_rope": [4, 4, 8],
}


def bria() -> Any:
    seeded()
    t5 = tokens.t5()
    pipe = BriaPipeline(
        transformer=shown(BriaTransformer2DModel(**BRIA)),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(LATENT),
        text_encoder=encoders.t5_encoder(t5),
        tokenizer=t5,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


MODELS = {
    "bria": TinyModel(
        bria,
        options={"height": HEIGHT, "width": WIDTH, "max_sequence_length": 16, "negative_prompt": NEGATIVE},
    ),
}
