"""What is common to all tiny pipelines: how one is made and called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

PROMPT = "a red circle and a blue square"
NEGATIVE = "a green ball"
HEIGHT, WIDTH = 32, 48  # pixels; unequal, so that rows and columns taken for each other show
STEPS = 2


def picture(height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """A picture without two equal rows or columns."""
    ramp = torch.arange(height * width * 3) % 251
    return Image.frombytes("RGB", (width, height), bytes(ramp.tolist()))


def mask(height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """Its left half is to be filled."""
    made = Image.new("L", (width, height))
    made.paste(255, (0, 0, width // 2, height))
    return made


@dataclass(frozen=True)
class Text:
    """Where the text that a denoiser attends to comes from.

    Attributes:
        encoder: Name of its encoder in the pipeline.
        tokenizer: Name of the tokenizer, or of a processor that has one.
        dropped: How many of the encoder's tokens, at the beginning, the pipeline keeps from the denoiser.
    """

    encoder: str = "text_encoder"
    tokenizer: str = "tokenizer"
    dropped: Callable[[Any], int] = lambda pipe: 0


@dataclass(frozen=True)
class TinyModel:
    """A stock pipeline with tiny random weights.

    Attributes:
        build: The pipeline; every call makes equal weights. It draws from torch's global generator.
        part: Name of the denoiser in the pipeline.
        options: Arguments of a call beside the prompt, the steps, the generator and the kind of output.
        text: Where the text of the denoiser comes from; None if it has none, so that there is no prompt.
    """

    build: Callable[[], Any]
    part: str = "transformer"
    options: Mapping[str, Any] = field(default_factory=dict)
    text: Text | None = field(default_factory=Text)

    def denoiser(self, pipe: Any) -> Any:
        return getattr(pipe, self.part)

    def generate(self, pipe: Any, prompt: Any = PROMPT, **changes: Any) -> Tensor:
        """Images [B, 3, h, w] of ``STEPS`` seeded steps, or what ``output_type`` asks for."""
        call = {
            **({} if self.text is None else {"prompt": prompt}),
            "num_inference_steps": STEPS,
            "generator": torch.Generator().manual_seed(1),
            "output_type": "pt",
            **self.options,
            **changes,
        }
        return pipe(**call).images
