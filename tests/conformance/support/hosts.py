"""The model families that every control is tried on: one row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_joint
import tiny_pipelines as tiny
import torch
from torch import Tensor

PROMPT = "a red circle and a blue square"
NEGATIVE = "a green ball"
STEPS = 2


@dataclass(frozen=True)
class Host:
    """A family, as a tiny pipeline with random weights.

    Attributes:
        build: A stock pipeline of text to image; its files go into the folder.
        part: Name of the denoiser in the pipeline.
        options: Arguments of its call, beside the common ones.
    """

    build: Callable[[Path], Any]
    part: str
    options: dict[str, Any]

    def denoiser(self, pipe: Any) -> Any:
        return getattr(pipe, self.part)

    def draw(self, pipe: Any, **changes: Any) -> Tensor:
        """Latents of a few steps, [images, C, h, w]."""
        call = {
            "prompt": PROMPT,
            "negative_prompt": NEGATIVE,
            "num_inference_steps": STEPS,
            "guidance_scale": 4.0,
            "generator": torch.Generator().manual_seed(0),
            "output_type": "latent",
            **self.options,
            **changes,
        }
        return pipe(**call).images


_SQUARE = {"height": tiny.SIDE, "width": tiny.SIDE}
HOSTS = {
    "unet": Host(tiny.sd1, "unet", _SQUARE),
    "sdxl": Host(tiny.sdxl, "unet", _SQUARE),
    "sd3": Host(tiny_joint.pipeline, "transformer", {**_SQUARE, "max_sequence_length": 12}),
}
