"""Random residuals of tiny pipelines, and pictures drawn with them."""

from __future__ import annotations

from typing import Any

import tiny_pipelines as tiny
import torch
from torch import Tensor

import weft
from weft.attach import base_model, resolve

PROMPT = "a red circle and a blue square"
RED, BLUE = ("red", "circle"), ("blue", "square")  # identifier and class word, each of one token
POSITIONS = {RED: (2, 3), BLUE: (6, 7)}  # in PROMPT


def residual_for(pipe: Any, words: tuple[str, str] = RED, rank: int = 3) -> weft.Residual:
    """Random factors for every projection of ``pipe``, strong enough to be seen."""
    base, generator = base_model(pipe), torch.Generator().manual_seed(len(words[0]) + rank)
    down = {p.name: torch.randn(rank, p.in_width, generator=generator) / p.in_width**0.5 for p in base.projections}
    up = {p.name: torch.randn(p.width, rank, generator=generator) / 4 for p in base.projections}
    part = resolve(pipe).family.part
    return weft.Residual(down, up, *words, "tiny", base.text_width, base.projections[0].is_convolution, part=part)


def draw(pipe: Any, *controls: Any, kind: str = "sd1", prompt: Any = PROMPT, **changes: Any) -> Tensor:
    """Latents of a few steps with ``controls``."""
    with weft.attach(pipe, *controls):
        return tiny.generate(pipe, kind, prompt, output_type="latent", **changes)
