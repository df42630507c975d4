"""A stock Stable Diffusion 3 pipeline with tiny random weights and no T5, and a longer text for its blocks."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tiny_joint
import tiny_pipelines as tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
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


@contextmanager
def longer_stream(model: Any, shown: Tensor) -> Iterator[None]:
    """Tokens [L, m, C] stand before the text of the first L blocks, each its own, and are dropped behind it."""

    def insert(mine: Tensor, block: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        text = kwargs["encoder_hidden_states"]
        return args, {**kwargs, "encoder_hidden_states": torch.cat([mine.expand(len(text), -1, -1), text], 1)}

    def drop(block: Any, args: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return output[0][:, shown.shape[1] :], output[1]

    handles = []
    for block, mine in zip(model.transformer_blocks, shown, strict=False):
        handles.append(block.register_forward_pre_hook(functools.partial(insert, mine), with_kwargs=True))
        handles.append(block.register_forward_hook(drop))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
