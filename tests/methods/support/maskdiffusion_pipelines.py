"""A Stable Diffusion pipeline with the four levels of SD1.x and hardly any width.

It attends at the second and third level and in the middle, and with ``EVERY_LEVEL`` at the first too, as SD1.x does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_pipelines import SD1, sd1
from torch import Tensor, nn

FOUR_LEVELS = {
    **SD1,
    "sample_size": 32,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (16, 16, 32, 32),
    "layers_per_block": 2,  # so that 2 + 3 cross layers see the map grid, as in SD1.x
}
# sixteen times the work, hence not everywhere
EVERY_LEVEL = {
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
}
# one object, two of which one ends the prompt, and three with a word behind the last
PROMPTS = {
    1: ("a red circle and ze ball", ["a red circle"]),
    2: ("a red circle and a blue square", ["a red circle", "a blue square"]),
    3: ("a red circle and a blue square and ball ze", ["a red circle", "a blue square", "ball"]),
}


def four_levels(folder: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """The pipeline; ``changes`` are of its UNet's configuration."""
    pipe = sd1(folder, config={**FOUR_LEVELS, **changes})
    for module in pipe.unet.modules():
        if isinstance(module, nn.Conv2d):
            # zeros around the image are all that random weights would look at: every object would be in a corner
            module.padding_mode = "circular"
            module._reversed_padding_repeated_twice = [side for side in module.padding[::-1] for _ in range(2)]
    return pipe if dtype == torch.float32 else pipe.to(dtype)


def noise(
    seed: int = 0, images: int = 1, size: tuple[int, int] = (32, 32), dtype: torch.dtype = torch.float32
) -> Tensor:
    """[images, 4, h, w], the same in every dtype but for rounding."""
    return torch.randn(images, 4, *size, generator=torch.Generator().manual_seed(seed)).to(dtype)
