"""The shapes model as a stock inpainting pipeline, prompts for it, and pictures with holes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

import weft
from weft import shapes
from weft.methods.powerpaint.prompts import TaskPrompts
from weft.train.task_prompts.unet import inpainting_pipeline

WIDTH = 128  # of the shapes model's text


@functools.cache
def pipeline() -> StableDiffusionInpaintPipeline:
    """Widened by zeros: it draws what its prompt says, and knows nothing of the picture round the hole."""
    pipe = inpainting_pipeline(shapes.pipeline())
    assert type(pipe) is StableDiffusionInpaintPipeline
    pipe.set_progress_bar_config(disable=True)
    return pipe


def vectors(width: int = WIDTH, count: int = 10, encoders: int = 1) -> dict[Any, tuple[torch.Tensor, ...]]:
    """Prompts that differ, as large as the embeddings of words."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: tuple(0.1 * torch.randn(count, width, generator=generator) for _ in range(encoders))
        for name in ("context", "shape", "object")
    }


def tasks(**changes: Any) -> TaskPrompts:
    return weft.TaskPrompts(vectors(), **changes)


def picture(index: int = 1, size: tuple[int, int] = (64, 64)) -> Image.Image:
    drawn = Image.fromarray(shapes.render(shapes.scene(0, index, objects=2)))
    return drawn if size == drawn.size else drawn.resize(size, Image.Resampling.BICUBIC)


def box_mask(box: tuple[int, int, int, int] = (20, 24, 36, 44), size: tuple[int, int] = (64, 64)) -> Image.Image:
    """White in left, top, right, bottom."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def changed(image: Any, other: Any) -> np.ndarray:
    """[h, w], where two pictures differ in any bit."""
    return (np.asarray(image) != np.asarray(other)).any(-1)


def repainted(image: Any, other: Any) -> np.ndarray:
    """[h, w], where two pictures differ by more than rounding: by three levels of 255 or more in some channel."""
    return (np.abs(np.asarray(image).astype(int) - np.asarray(other)) > 2).any(-1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
