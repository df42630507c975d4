"""SDXL InstructPix2Pix, whose batches are [prompt, negative prompt with the image, negative prompt without it]."""

from __future__ import annotations

from typing import Any

from diffusers import DDIMScheduler, StableDiffusionXLInstructPix2PixPipeline

from . import encoders, tokens
from .model import HEIGHT, NEGATIVE, WIDTH, TinyModel, picture
from .unets import sdxl_unet
from .vaes import vae
from .weights import seeded


def sdxl_instruct_pix2pix() -> Any:
    seeded()
    first, second = tokens.clip(), tokens.clip()
    pipe = StableDiffusionXLInstructPix2PixPipeline(
        unet=sdxl_unet(2 * encoders.WIDTH, in_channels=8),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        vae=vae(shift_factor=None),
        text_encoder=encoders.clip_encoder(first),
        tokenizer=first,
        text_encoder_2=encoders.clip_encoder(second, projected=True),
        tokenizer_2=second,
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


MODELS = {
    "sdxl-instruct-pix2pix": TinyModel(
        sdxl_instruct_pix2pix,
        "unet",
        {
            "height": HEIGHT,
            "width": WIDTH,
            "image": picture(),
            "negative_prompt": NEGATIVE,
            "guidance_scale": 5.0,
            "image_guidance_scale": 1.5,
        },
    ),
}
