"""Kandinsky 2.1 (text and an image's embedding as added keys) and 2.2 (no text at all)."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, KandinskyPipeline, KandinskyV22Pipeline, VQModel
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from torch import Tensor

from . import encoders, tokens
from .model import HEIGHT, NEGATIVE, WIDTH, TinyModel
from .unets import added_unet
from .weights import seeded

LATENT = 4  # channels


def movq() -> VQModel:
    return VQModel(
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 32),  # a spatial norm has 32 groups, whatever it is asked for
        norm_type="spatial",
        layers_per_block=1,
        latent_channels=LATENT,
        vq_embed_dim=LATENT,
        num_vq_embeddings=12,
    ).eval()


def _encoder(tokenizer: Any) -> MultilingualCLIP:
    config = MCLIPConfig(
        transformerDimSize=encoders.WIDTH,
        imageDimSize=encoders.WIDTH,
        vocab_size=len(tokenizer),
        hidden_size=encoders.WIDTH,
        intermediate_size=2 * encoders.WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=96,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    return MultilingualCLIP(config).eval()


def _pipeline(kind: type, embedding: str, **parts: Any) -> Any:
    """A pipeline whose denoiser predicts a variance beside the noise, as the published ones do."""
    pipe = kind(
        unet=added_unet(
            in_channels=LATENT,
            out_channels=2 * LATENT,
            addition_embed_type=embedding,
            encoder_hid_dim_type=f"{embedding}_proj",
        ),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False, set_alpha_to_one=False),
        movq=movq(),
        **parts,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def kandinsky() -> Any:
    seeded()
    roberta = tokens.xlm_roberta()
    return _pipeline(KandinskyPipeline, "text_image", text_encoder=_encoder(roberta), tokenizer=roberta)


def kandinsky22() -> Any:
    seeded()
    return _pipeline(KandinskyV22Pipeline, "image")


def _embeds(seed: int) -> Tensor:
    """An embedding of an image, as a prior makes it, [1, C]."""
    return torch.randn(1, encoders.WIDTH, generator=torch.Generator().manual_seed(seed))


_CALL = {"height": HEIGHT, "width": WIDTH, "image_embeds": _embeds(2), "negative_image_embeds": _embeds(3)}
MODELS = {
    "kandinsky": TinyModel(kandinsky, "unet", {**_CALL, "negative_prompt": NEGATIVE}),
    "kandinsky-2.2": TinyModel(kandinsky22, "unet", _CALL, text=None),
}
