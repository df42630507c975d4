"""``soft_tokens``: one pass of a denoiser of a real model's size, some layers of which see learnt tokens.

Four tokens with offsets for a hundred stretches of the schedule, in the blocks where the published ones are. Beside
weft: the same tokens put behind the text of these layers in every pass, as without a place for them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import weft
from benchmarks.cases.denoiser import SHAPES, Attached, ImageCost, Images, Stage, Stock
from weft.attach import base_model
from weft.testing.soft_tokens_eager import longer_text

BLOCKS = ("down_blocks",)
TOKENS, BUCKETS = 4, 100


def soft_tokens(pipe: Any) -> weft.SoftTokens:
    """Random ones, the same for everybody."""
    generator, width = torch.Generator().manual_seed(1), base_model(pipe, "benchmark").text_width
    tokens, offsets = (torch.randn(count, width, generator=generator) for count in (TOKENS, BUCKETS))
    return weft.SoftTokens(tokens, 0.1 * offsets, BLOCKS, "benchmark")


class Learnt(Attached):
    """What a user gets."""

    def control(self) -> weft.SoftTokens:
        return soft_tokens(self.pipe)


class Longer(Stock):
    """The stock network with a longer text in the layers that see the tokens."""

    def __init__(self, images: Images) -> None:
        super().__init__(images)
        self.soft = soft_tokens(self.pipe)
        self.bank = self.soft.bank().to(images.dtype)

    def __call__(self, stage: Stage) -> Tensor:
        shown = self.bank[self.soft.bucket(stage.timestep)]
        with longer_text(self.pipe.unet, shown, BLOCKS):
            return super().__call__(stage)


COST = ImageCost(
    name="soft_tokens",
    stages=(Stage("step", 0, 50, "sees further keys"),),
    ways={"weft": Learnt, "stock": Stock, "longer": Longer},
    same=("weft", "longer"),
    default="weft",
    share=0.02,
    ours="weft",
    against="longer",
    less_time=1.0,
    less_memory=1.0,
    memory_stage="step",
    gate=("tests/methods/soft_tokens/test_control.py",),
)
BENCHMARK = COST.benchmark(SHAPES)
