"""Pictures with captions, and a batch of their latents, as objectives of soft tokens take it."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from weft.attach import resolve

CAPTIONS = ("a red circle", "a blue square", "a green ball", "a red square")


def pairs() -> list[tuple[Image.Image, str]]:
    return [(Image.new("RGB", (40, 36), (60 * i, 200, 30)), caption) for i, caption in enumerate(CAPTIONS)]


def batch(pipe: Any, captions: tuple[str, ...] = CAPTIONS) -> dict[str, Tensor]:
    """Each picture and the first of its caption, in ``alike`` [B, 2], stand for the classes of picture and caption."""
    generator, count = torch.Generator().manual_seed(0), len(captions)
    text = resolve(pipe).encode_captions(captions)
    return {
        "latents": torch.randn(count, 4, 16, 16, generator=generator),
        "noise": torch.randn(1, 4, 16, 16, generator=generator),
        "timestep": torch.tensor([300]),
        "states": text.states,
        "pooled": text.states.new_empty(count, 0) if text.pooled is None else text.pooled,
        "time_ids": torch.rand(count, 6, generator=generator),
        "alike": torch.tensor([[number, captions.index(caption)] for number, caption in enumerate(captions)]),
    }
