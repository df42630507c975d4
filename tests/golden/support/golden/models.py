"""The embedded models, and random artefacts for them that are strong enough to be seen."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

import weft
from golden import internals
from golden.inputs import Draw
from weft import shapes

PROMPT = "a red circle and a blue square"
RED, BLUE = ("red", "circle"), ("blue", "square")
HOLE = (20, 24, 44, 48)  # left, top, right, bottom


@functools.cache
def pipeline(model: Any) -> Any:
    """An embedded model, or "fill", the text-to-image one in a pipeline for holes."""
    if model == "fill":
        pipe = StableDiffusionInpaintPipeline(**pipeline("sd1").components, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        return pipe
    return shapes.pipeline(model)


def picture(index: int = 1) -> Image.Image:
    """A scene of two objects."""
    return Image.fromarray(shapes.render(shapes.scene(0, index, objects=2)))


def hole() -> Image.Image:
    """White where to paint."""
    mask = Image.new("L", (64, 64))
    mask.paste(255, HOLE)
    return mask


def residual(words: tuple[str, str] = RED, rank: int = 16, model: str = "sd1") -> weft.Residual:
    """Random factors of every projection at the end of a block."""
    unet, draw = pipeline(model).unet, Draw(20 + len(words[0]))
    widths = {name: len(part.weight) for name, part in unet.named_modules() if name.endswith(".proj_out")}
    down = {name: draw.normal(rank, width, scale=width**-0.5) for name, width in widths.items()}
    up = {name: draw.normal(width, rank, scale=0.1) for name, width in widths.items()}
    return weft.Residual(down, up, *words, "golden", unet.config.cross_attention_dim, True)


def soft_tokens(model: str = "sd1") -> weft.SoftTokens:
    """The same tokens for all down blocks; or those of two blocks of a joint attention, in its own space."""
    draw = Draw(30)
    if model != "sd3":
        return weft.SoftTokens(draw.normal(4, 128), draw.normal(10, 128, scale=0.3), base_name="golden")
    blocks = ("transformer_blocks.0", "transformer_blocks.1")
    return weft.SoftTokens(draw.normal(2, 4, 160), draw.normal(10, 2, 160, scale=0.3), blocks, space="block")


def task_branch(unet: Any, width: int, **options: Any) -> weft.TaskBranch:
    """A branch with other weights than ``unet``, and random texts."""
    draw, network = Draw(40), internals.branch_beside(unet)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            noise = draw.normal(*weight.shape, scale=0.02)
            weight.copy_(weight + noise if name.startswith("unet.") else noise)
    states: Any = {name: draw.normal(7, width) for name in ("context", "shape", "object", "empty")}
    return weft.TaskBranch(network, states, base_name="golden", **options)


def task_prompts() -> weft.TaskPrompts:
    """Those that are shipped beside the inpainting model."""
    return weft.TaskPrompts.load(shapes.model_path("inpainting"))
