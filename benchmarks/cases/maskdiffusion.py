"""``maskdiffusion``: one pass of a denoiser of Stable Diffusion 1.5's real size, at every kind of step of an image.

The work is the released algorithm; stock does none of it, weft and the eager restatement all. The default settings,
which edit longer, are beside them.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

import weft
from benchmarks.cases.denoiser import SD15, SHAPES, STEPS, Attached, ImageCost, Images, Stage, Stock
from weft.testing.maskdiffusion import EagerMaskDiffusion, eager_processors

PHRASES = ("a red circle", "a blue square")
MAP_GRID = (16, 16)

STAGES = (
    Stage("maps", 0, 1, "reads maps, chooses regions"),
    Stage("self", 1, 1, "the same, and edits self-attention"),
    Stage("both", 2, 1, "the same, and edits cross-attention"),
    Stage("refresh", 3, 1, "the same, for the last time"),
    Stage("edit", 4, 11, "edits self- and cross-attention"),
    Stage("longer", 15, 10, "nothing; the default edits on"),
    Stage("late", 25, 25, "nothing"),
)


class Weft(Attached):
    """The released algorithm."""

    def control(self) -> weft.MaskDiffusion:
        return weft.MaskDiffusion(PHRASES, mode="released")


class Default(Attached):
    """The settings that a user gets."""

    note = "other settings"

    def control(self) -> weft.MaskDiffusion:
        return weft.MaskDiffusion(PHRASES)


class WithoutEdit(Stock):
    note = "no edit"


class Eager(Stock):
    """The pipeline with the processors of a research script."""

    def __init__(self, images: Images) -> None:
        super().__init__(images)
        self.stack = contextlib.ExitStack()

    @torch.no_grad()
    def begin(self) -> None:
        self.close()
        h, w = self.images.latent.shape[2:]
        sizes = {"latent_size": (h, w), "map_grid": MAP_GRID}
        self.state = EagerMaskDiffusion(self.pipe, self.prompt, PHRASES, steps=STEPS, **sizes)
        self.stack.enter_context(eager_processors(self.pipe.unet, self.state))

    def __call__(self, stage: Stage) -> Tensor:
        self.state.step = stage.index - 1
        return super().__call__(stage)

    def close(self) -> None:
        self.stack.close()


COST = ImageCost(
    name="maskdiffusion",
    stages=STAGES,
    ways={"weft": Weft, "default": Default, "stock": WithoutEdit, "eager": Eager},
    same=("weft", "eager"),
    default="default",
    share=0.05,
    ours="weft",
    against="eager",
    less_time=3.0,
    less_memory=10.0,
    memory_stage="edit",
    gate=("tests/methods/maskdiffusion/test_parity.py",),
)
BENCHMARK = COST.benchmark(tuple(shape for shape in SHAPES if shape.kind == SD15))
