"""Stock diffusers pipelines with tiny random weights, and a CLIP tokenizer whose vocabulary is spelt out here.

Image sides are twice those of the latent; cross-attention runs at three resolutions: the latent's, a half, a quarter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SIDE = 32  # pixels; the latent is half of it
MAX_LENGTH = 16  # tokens
START, END = "<|startoftext|>", "<|endoftext|>"

# words of one token; every other word falls into letters, but for the pieces "foot", "ze" and the ending "bra"
WORDS = ("red", "blue", "green", "circle", "square", "and", "ball")
PIECES = ("foot", "ze", "bra</w>")


def tokenizer(folder: Path, max_length: int = MAX_LENGTH) -> CLIPTokenizer:
    """Write a vocabulary under ``folder`` and load it as any user would."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    merges: list[tuple[str, str]] = []
    for word in (*(f"{word}</w>" for word in WORDS), *PIECES):
        whole = word.removesuffix("</w>")
        parts = [*whole[:-1], word[len(whole) - 1 :]]
        while len(parts) > 1:
            merge = (parts[0], parts[1])
            if merge not in merges:
                merges.append(merge)
            parts[:2] = ["".join(merge)]
    tokens = dict.fromkeys([*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(merge) for merge in merges)]) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=max_length)


def text_encoder(tokens: CLIPTokenizer, width: int, projected: bool = False) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=width,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIDE,
    ).eval()


SD1 = {
    "sample_size": SIDE // 2,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (16, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,  # the number of heads, as in SD1.x
}
SD2 = {**SD1, "attention_head_dim": (1, 2, 4), "use_linear_projection": True}
SDXL = {
    **SD2,
    "cross_attention_dim": 64,  # two encoders of 32
    "transformer_layers_per_block": (1, 2, 1),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 32,
}
REFINER = {**SDXL, "cross_attention_dim": 32, "projection_class_embeddings_input_dim": 5 * 8 + 32}


def unet(config: dict[str, Any] | None = None, **changes: Any) -> UNet2DConditionModel:
    model = UNet2DConditionModel(**{**(SD1 if config is None else config), **changes}).eval()
    # freshly initialised projections give logits near 0, so that every map would be flat
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".to_q." in name or ".to_k." in name:
                weight.mul_(4)
    return model


def sd1(folder: Path, kind: type = StableDiffusionPipeline, config: dict[str, Any] | None = None, **parts: Any) -> Any:
    """A Stable Diffusion 1.x pipeline of class ``kind``; SD2 with ``config=SD2``."""
    torch.manual_seed(0)
    tokens = tokenizer(folder)
    pipeline = kind(
        vae=vae(),
        text_encoder=text_encoder(tokens, 32),
        tokenizer=tokens,
        unet=parts.pop("unet", None) or unet(config),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sdxl(folder: Path, kind: type = StableDiffusionXLPipeline) -> Any:
    torch.manual_seed(0)
    tokens = tokenizer(folder / "1"), tokenizer(folder / "2")
    pipeline = kind(
        vae=vae(),
        text_encoder=text_encoder(tokens[0], 32),
        text_encoder_2=text_encoder(tokens[1], 32, projected=True),
        tokenizer=tokens[0],
        tokenizer_2=tokens[1],
        unet=unet(SDXL),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def refiner(folder: Path) -> StableDiffusionXLImg2ImgPipeline:
    torch.manual_seed(0)
    tokens = tokenizer(folder)
    pipeline = StableDiffusionXLImg2ImgPipeline(
        vae=vae(),
        text_encoder=None,
        text_encoder_2=text_encoder(tokens, 32, projected=True),
        tokenizer=None,
        tokenizer_2=tokens,
        unet=unet(REFINER),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        requires_aesthetics_score=True,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def img2img(folder: Path) -> StableDiffusionImg2ImgPipeline:
    return sd1(folder, StableDiffusionImg2ImgPipeline)


def inpaint(folder: Path) -> StableDiffusionInpaintPipeline:
    torch.manual_seed(0)
    return sd1(folder, StableDiffusionInpaintPipeline, unet=unet(in_channels=9))


def controlnet(folder: Path) -> StableDiffusionControlNetPipeline:
    torch.manual_seed(0)
    model = unet()
    net = ControlNetModel.from_unet(model, conditioning_embedding_out_channels=(8, 16)).eval()
    torch.nn.init.normal_(net.controlnet_mid_block.weight, std=0.1)  # it starts at zero, which would test nothing
    return sd1(folder, StableDiffusionControlNetPipeline, unet=model, controlnet=net)


def picture(side: int = SIDE) -> Image.Image:
    ramp = torch.arange(side * side * 3) % 251
    return Image.frombytes("RGB", (side, side), bytes(ramp.tolist()))


# what each kind of pipeline is called with, beside the prompt
EXTRA: dict[str, dict[str, Any]] = {
    "sd1": {"height": SIDE, "width": SIDE},
    "sd2": {"height": SIDE, "width": SIDE},
    "sdxl": {"height": SIDE, "width": SIDE},
    "refiner": {"image": picture(), "strength": 1.0},
    "img2img": {"image": picture(), "strength": 1.0},
    "inpaint": {"image": picture(), "mask_image": picture(), "height": SIDE, "width": SIDE, "strength": 1.0},
    "controlnet": {"image": picture(), "height": SIDE, "width": SIDE},
}


def build(kind: str, folder: Path) -> Any:
    """A pipeline by the names of ``EXTRA``."""
    if kind == "sd2":
        return sd1(folder, config=SD2)
    return {
        "sd1": sd1,
        "sdxl": sdxl,
        "refiner": refiner,
        "img2img": img2img,
        "inpaint": inpaint,
        "controlnet": controlnet,
    }[kind](folder)


def generate(pipeline: Any, kind: str = "sd1", prompt: Any = "a red circle and a blue square", **changes: Any) -> Any:
    """Run ``pipeline`` for a few seeded steps; images as an array [images, h, w, 3] in [0, 1], or as asked for."""
    call = {
        "prompt": prompt,
        "num_inference_steps": 3,
        "guidance_scale": 5.0,
        "output_type": "np",
        "generator": torch.Generator().manual_seed(1),
        **EXTRA[kind],
        **changes,
    }
    return pipeline(**call).images
