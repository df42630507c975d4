"""Chroma: Flux's blocks, modulated by an approximator; text of T5 with a mask, guidance in two passes."""

from __future__ import annotations

from typing import Any

from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

from . import encoders, tokens
from .model import HEIGHT, NEGATIVE, WIDTH, TinyModel
from .vaes import vae
from .weights import seeded, shown

LATENT = 4  # channels
CHROMA: dict[str, Any] = {
    "in_channels": 4 * LATENT,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": encoders.WIDTH,
    "axes_dims_rope": (4, 4, 8),
    "approximator_hidden_dim": 32,
    "approximator_layers": 1,
    "approximator_num_channels": 16,
}


def chroma() -> Any:
    seeded()
    t5 = tokens.t5()
    pipe = ChromaPipeline(
        transformer=shown(ChromaTransformer2DModel(**CHROMA)),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(LATENT),
        text_encoder=encoders.t5_encoder(t5),
        tokenizer=t5,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


MODELS = {
    "chroma": TinyModel(
        chroma,
        options={"height": HEIGHT, "width": WIDTH, "max_sequence_length": 16, "negative_prompt": NEGATIVE},
    ),
}
