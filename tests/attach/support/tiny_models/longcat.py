"""LongCat-Image: Flux's blocks with Qwen2.5-VL as the encoder; the pipeline drops what it puts around the prompt."""

from __future__ import annotations

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, LongCatImagePipeline, LongCatImageTransformer2DModel

from . import decoders, encoders, tokens
from .model import HEIGHT, NEGATIVE, WIDTH, Text, TinyModel
from .vaes import vae
from .weights import seeded, shown

LATENT = 16  # channels, which the pipeline does not read from a configuration
TEXT = 32  # tokens; 512 as published
LONGCAT: dict[str, Any] = {
    "in_channels": 4 * LATENT,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": encoders.WIDTH,
    "axes_dims_rope": (4, 4, 8),
}


def longcat() -> Any:
    seeded()
    qwen = tokens.qwen()
    pipe = LongCatImagePipeline(
        transformer=shown(LongCatImageTransformer2DModel(**LONGCAT)),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(LATENT),
        text_encoder=decoders.qwen2_5_vl_encoder(qwen),
        tokenizer=qwen,
        text_processor=None,  # rewrites prompts
    )
    pipe.tokenizer_max_length = TEXT
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _prefix(pipe: Any) -> int:
    return len(pipe.tokenizer(pipe.prompt_template_encode_prefix, add_special_tokens=False)["input_ids"])


MODELS = {
    "longcat": TinyModel(
        longcat,
        options={"height": HEIGHT, "width": WIDTH, "negative_prompt": NEGATIVE, "enable_prompt_rewrite": False},
        text=Text(dropped=_prefix),
    ),
}
