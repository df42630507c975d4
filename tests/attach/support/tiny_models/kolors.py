"""Kolors: a UNet of SDXL behind ChatGLM, whose texts are padded on the left."""

from __future__ import annotations

from typing import Any

from diffusers import DDIMScheduler
from diffusers.pipelines.kolors.pipeline_kolors import KolorsPipeline
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel

from . import encoders, tokens
from .model import HEIGHT, NEGATIVE, WIDTH, TinyModel
from .unets import sdxl_unet
from .vaes import vae
from .weights import filled, seeded


def _encoder(tokenizer: Any) -> ChatGLMModel:
    config = ChatGLMConfig(
        num_layers=2,
        padded_vocab_size=tokenizer.vocab_size,
        hidden_size=encoders.WIDTH,
        ffn_hidden_size=encoders.WIDTH,
        kv_channels=8,
        num_attention_heads=4,
        seq_length=256,
        multi_query_attention=True,
        multi_query_group_num=2,
        add_qkv_bias=True,
        original_rope=True,
    )
    return filled(ChatGLMModel(config))


def kolors() -> Any:
    seeded()
    glm = tokens.chatglm()
    pipe = KolorsPipeline(
        # the text is projected once more before the layers see it
        unet=sdxl_unet(48, encoder_hid_dim=encoders.WIDTH, encoder_hid_dim_type="text_proj"),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        vae=vae(shift_factor=None),
        text_encoder=_encoder(glm),
        tokenizer=glm,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


MODELS = {
    "kolors": TinyModel(
        kolors,
        "unet",
        {
            "height": HEIGHT,
            "width": WIDTH,
            "negative_prompt": NEGATIVE,
            "guidance_scale": 5.0,
        },
    ),
}
