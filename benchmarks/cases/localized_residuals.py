"""``localized_residuals``: one pass of a denoiser of a real model's size, with a concept that acts where it is drawn.

Everybody has one concept of the paper's ranks. The others: the paper's blend of two whole projections under a mask
from eager attention, which is the same work; two passes of the network, whose noise is blended, which is what people
do who have a mask; and peft's LoRA, which acts everywhere.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

import weft
from benchmarks.cases.denoiser import SHAPES, Attached, ImageCost, Images, Stage, Stock
from weft.attach import base_model
from weft.testing.lag_eager import eager_lag

IDENTIFIER, CLASS_WORD = "red", "circle"
POSITIONS = (2, 3)  # of these words in the prompt
RANK_SHARE = 0.05  # of a layer's width


def concept(pipe: Any) -> weft.Residual:
    """Random factors for every projection, the same for everybody."""
    base, generator = base_model(pipe, "benchmark"), torch.Generator().manual_seed(1)
    down, up = {}, {}
    for layer in base.projections:
        rank = max(1, round(RANK_SHARE * layer.width))
        down[layer.name] = torch.randn(rank, layer.width, generator=generator) / layer.width**0.5
        up[layer.name] = torch.randn(layer.width, rank, generator=generator) * 0.01
    is_convolution = base.projections[0].is_convolution
    return weft.Residual(down, up, IDENTIFIER, CLASS_WORD, base.name, base.text_width, is_convolution)


class Localized(Attached):
    """What a user gets."""

    def control(self) -> weft.LocalizedResiduals:
        return weft.LocalizedResiduals(concept(self.pipe))


class Fused(Attached):
    """One product for layer and concept, which need not keep the layer's bits outside the mask."""

    note = "exact=False"

    def control(self) -> weft.LocalizedResiduals:
        return weft.LocalizedResiduals(concept(self.pipe), exact=False)


class Everywhere(Attached):
    note = "no mask"

    def control(self) -> weft.LocalizedResiduals:
        return weft.LocalizedResiduals(concept(self.pipe), "none", exact=False)


class Peft(Stock):
    """peft's layers around the projections, as ``load_lora_weights`` makes them."""

    note = "no mask"

    def __init__(self, images: Images) -> None:
        super().__init__(images)
        residual, unet = concept(self.pipe), self.pipe.unet
        ranks = residual.ranks
        config = LoraConfig(r=1, target_modules=list(ranks), rank_pattern=ranks, alpha_pattern=ranks)
        unet.add_adapter(config)
        for name in ranks:
            layer = unet.get_submodule(name)
            for part, factor in ((layer.lora_A, residual.down[name]), (layer.lora_B, residual.up[name])):
                weight = part["default"].weight
                weight.data = factor.view(weight.shape).to(self.images.dtype)
        unet.requires_grad_(False)


class Blend(Stock):
    """Two whole projections in every block, blended under the median mask of eager attention."""

    def __init__(self, images: Images) -> None:
        super().__init__(images)
        self.stack = contextlib.ExitStack()

    @torch.no_grad()
    def begin(self) -> None:
        self.close()
        residual = concept(self.pipe)
        factors = [(residual.down, residual.up)]
        self.stack.enter_context(eager_lag(self.pipe.unet, factors, [[POSITIONS]], conditional_only=True))

    def close(self) -> None:
        self.stack.close()


class Twice(Peft):
    """A pass with the concept and one without, whose noise is blended."""

    note = "mask of the noise"

    @torch.no_grad()
    def __call__(self, stage: Stage) -> Tensor:
        changed = super().__call__(stage)
        self.pipe.unet.disable_adapters()
        plain = super().__call__(stage)
        self.pipe.unet.enable_adapters()
        mask = torch.zeros_like(plain[:1, :1])
        mask[..., : mask.shape[-1] // 2] = 1
        return torch.lerp(plain, changed, mask)


COST = ImageCost(
    name="localized_residuals",
    stages=(Stage("step", 0, 50, "reads maps, gates projections"),),
    ways={
        "weft": Localized,
        "fused": Fused,
        "everywhere": Everywhere,
        "stock": Stock,
        "peft": Peft,
        "blend": Blend,
        "twice": Twice,
    },
    same=("weft", "fused", "blend"),
    default="weft",
    share=0.03,
    ours="weft",
    against="blend",
    less_time=3.0,
    less_memory=3.0,
    memory_stage="step",
    gate=("tests/methods/residuals/test_control.py",),
    # pixels whose map is as high as the median but for rounding change sides
    tolerance={torch.float32: 1e-2, torch.bfloat16: 1e-1},
)
BENCHMARK = COST.benchmark(SHAPES)
