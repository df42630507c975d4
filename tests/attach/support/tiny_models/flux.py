"""Flux.1: text to image, image to image, inpainting, Kontext and Fill around one kind of transformer."""

from __future__ import annotations

from functools import partial
from typing import Any

from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)

from . import encoders, tokens
from .model import HEIGHT, WIDTH, Text, TinyModel, mask, picture
from .vaes import vae
from .weights import seeded, shown

LATENT = 4  # channels
TEXT = 16  # tokens of T5
FLUX: dict[str, Any] = {
    "in_channels": 4 * LATENT,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": encoders.WIDTH,
    "pooled_projection_dim": encoders.WIDTH,
    "axes_dims_rope": (4, 4, 8),
    "guidance_embeds": True,
}
# beside the latent: the picture around the hole, and the mask with a channel for each of the 2 x 2 pixels of a latent
FILL = {**FLUX, "in_channels": 4 * (2 * LATENT + 4), "out_channels": 4 * LATENT}


def transformer(**config: Any) -> FluxTransformer2DModel:
    return shown(FluxTransformer2DModel(**{**FLUX, **config}))


def flux(kind: type = FluxPipeline, **config: Any) -> Any:
    """A pipeline of class ``kind``, whose transformer differs from ``FLUX`` by ``config``."""
    seeded()
    clip, t5 = tokens.clip(), tokens.t5()
    pipe = kind(
        transformer=transformer(**config),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(LATENT),
        text_encoder=encoders.clip_encoder(clip),
        tokenizer=clip,
        text_encoder_2=encoders.t5_encoder(t5),
        tokenizer_2=t5,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _model(kind: type = FluxPipeline, config: dict[str, Any] | None = None, **options: Any) -> TinyModel:
    size = {"height": HEIGHT, "width": WIDTH, "max_sequence_length": TEXT}
    text = Text("text_encoder_2", "tokenizer_2")
    return TinyModel(partial(flux, kind, **(config or {})), options={**size, **options}, text=text)


MODELS = {
    "flux": _model(),
    "flux-schnell": _model(config={"guidance_embeds": False}),
    "flux-img2img": _model(FluxImg2ImgPipeline, image=picture(), strength=1.0),
    "flux-inpaint": _model(FluxInpaintPipeline, image=picture(), mask_image=mask(), strength=1.0),
    # it draws at sizes near a megapixel by default
    "flux-kontext": _model(FluxKontextPipeline, image=picture(), max_area=HEIGHT * WIDTH, _auto_resize=False),
    "flux-fill": _model(FluxFillPipeline, FILL, image=picture(), mask_image=mask()),
}
