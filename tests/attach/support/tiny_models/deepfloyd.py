"""DeepFloyd IF: pixels without an autoencoder, text of T5 as added keys."""

from __future__ import annotations

from typing import Any

from diffusers import DDPMScheduler, IFPipeline

from . import encoders, tokens
from .model import HEIGHT, NEGATIVE, WIDTH, TinyModel
from .unets import added_unet
from .weights import seeded


def deepfloyd() -> Any:
    seeded()
    t5 = tokens.t5(77)
    pipe = IFPipeline(
        unet=added_unet(
            in_channels=3,
            out_channels=6,
            encoder_hid_dim_type="text_proj",
            addition_embed_type="text",
            addition_embed_type_num_heads=2,
            cross_attention_norm="group_norm",
            act_fn="gelu",
        ),
        scheduler=DDPMScheduler(variance_type="learned_range"),
        text_encoder=encoders.t5_encoder(t5),
        tokenizer=t5,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


MODELS = {
    "deepfloyd-if": TinyModel(
        deepfloyd,
        "unet",
        {"height": HEIGHT, "width": WIDTH, "negative_prompt": NEGATIVE, "clean_caption": False},
    ),
}
