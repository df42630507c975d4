"""A stock Stable Diffusion 3 pipeline with tiny random weights and no T5, and a longer text for its blocks."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import tiny_joint
import tiny_pipelines as tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from text_stream import before_the_text
from torch import Tensor

TEXT_LENGTH = 2  # tokens of zeros in place of T5's
BLOCK = tiny_joint.BLOCK


def pipeline(folder: Path, shift: float = 3.0) -> Any:
    """Four joint blocks; latents of 16 cells a side, two to a patch."""
    torch.manual_seed(0)
    tokens = tiny.tokenizer(folder / "1"), tiny.tokenizer(folder / "2")
    text = {"joint_attention_dim": 64, "pooled_projection_dim": 64}
    vae = tiny.vae()
    vae.register_to_config(shift_factor=0.1)
    pipe = StableDiffusion3Pipeline(
        transformer=tiny_joint.transformer(**{**tiny_joint.SD35, "num_layers": 4, "sample_size": 16, **text}),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=vae,
        text_encoder=tiny.text_encoder(tokens[0], 32, projected=True),
        tokenizer=tokens[0],
        text_encoder_2=tiny.text_encoder(tokens[1], 32, projected=True),
        tokenizer_2=tokens[1],
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def longer_stream(model: Any, shown: Tensor) -> AbstractContextManager[None]:
    """Tokens [L, m, C] are before the text of the first L blocks, each its own, and are dropped behind it."""
    return before_the_text(
        (block, lambda own=own: own) for block, own in zip(model.transformer_blocks, shown, strict=False)
    )
