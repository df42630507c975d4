"""Flux.2: dev with Mistral behind a system message, Klein with Qwen3 in a chat, both with references."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinKVPipeline,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

from . import decoders, encoders, tokens
from .model import HEIGHT, WIDTH, TinyModel, picture
from .vaes import flux2_vae
from .weights import seeded, shown

LATENT = 4  # channels
LAYERS = (1, 2, 3)  # of the encoder, whose states are put side by side
FLUX2: dict[str, Any] = {
    "in_channels": 4 * LATENT,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": len(LAYERS) * encoders.WIDTH,
    "timestep_guidance_channels": 32,
    "axes_dims_rope": (4, 4, 4, 4),
}


def _pipeline(kind: type, tokenizer: Any, encoder: Any, **config: Any) -> Any:
    pipe = kind(
        transformer=shown(Flux2Transformer2DModel(**{**FLUX2, **config})),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=flux2_vae(LATENT),
        text_encoder=encoder,
        tokenizer=tokenizer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux2() -> Any:
    seeded()
    processor = tokens.mistral(tokens.words_of(SYSTEM_MESSAGE))
    return _pipeline(Flux2Pipeline, processor, decoders.mistral3_encoder(processor.tokenizer))


def klein(kind: type = Flux2KleinPipeline) -> Any:
    seeded()
    qwen = tokens.qwen()
    return _pipeline(kind, qwen, decoders.qwen3_encoder(qwen), guidance_embeds=False)


def _model(build: Callable[[], Any], length: int, **options: Any) -> TinyModel:
    size = {"height": HEIGHT, "width": WIDTH, "max_sequence_length": length, "text_encoder_out_layers": LAYERS}
    return TinyModel(build, options={**size, **options})


# references have at least 64 pixels a side
MODELS = {
    "flux2": _model(flux2, 64),
    "flux2-reference": _model(flux2, 64, image=[picture(64, 80)]),
    "flux2-klein": _model(klein, 32),
    "flux2-klein-reference": _model(klein, 32, image=[picture(64, 80)]),
    "flux2-klein-kv": _model(partial(klein, Flux2KleinKVPipeline), 32, image=[picture(64, 80)]),
}
