"""Ovis-Image: Flux's blocks with Qwen3 as the encoder; the pipeline drops the template in front of the prompt."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, OvisImagePipeline, OvisImageTransformer2DModel

from . import decoders, encoders, tokens
from .model import HEIGHT, NEGATIVE, WIDTH, Text, TinyModel
from .vaes import vae
from .weights import seeded, shown

LATENT = 4  # channels
# one token each, as they are to the real tokenizer: the pipeline drops a fixed number of tokens
INSTRUCTION = (
    *("Describe", "image", "by", "detailing", "color", "quantity", "text", "shape", "size", "texture", "spatial"),
    *("relationships", "objects", "background", ":"),
)
OVIS: dict[str, Any] = {
    "in_channels": 4 * LATENT,
    "out_channels": 4 * LATENT,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": encoders.WIDTH,
    "axes_dims_rope": (4, 4, 8),
}


def ovis() -> Any:
    seeded()
    qwen = tokens.qwen(INSTRUCTION)
    pipe = OvisImagePipeline(
        transformer=shown(OvisImageTransformer2DModel(**OVIS)),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(LATENT),
        text_encoder=decoders.qwen3_encoder(qwen, layers=2, head=False),
        tokenizer=qwen,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


MODELS = {
    "ovis": TinyModel(
        ovis,
        options={"height": HEIGHT, "width": WIDTH, "max_sequence_length": 24, "negative_prompt": NEGATIVE},
        text=Text(dropped=lambda pipe: int(pipe.user_prompt_begin_id)),
    ),
}
