"""A tiny joint denoiser with random weights: as Stable Diffusion 3, or as 3.5 with its second attention and norms."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

CONDITIONING, BLOCK, POOLED = 24, 32, 20  # channels of the text, of the blocks, of the pooled text
TEXT = 7  # tokens
SD3 = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": CONDITIONING,
    "caption_projection_dim": BLOCK,
    "pooled_projection_dim": POOLED,
    "out_channels": 4,
    "pos_embed_max_size": 12,
}
SD35 = {**SD3, "dual_attention_layers": (0, 1), "qk_norm": "rms_norm"}


def transformer(**changes: Any) -> Any:
    torch.manual_seed(0)
    model = SD3Transformer2DModel(**{**SD3, **changes}).eval()
    # freshly initialised projections give logits near 0, so that every map would be flat
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in (".to_q.", ".to_k.", ".add_q_proj.", ".add_k_proj.")):
                weight.mul_(4)
    return model


def inputs(rows: int = 2, side: int | tuple[int, int] = 8, timestep: Any = 500.0) -> dict[str, Any]:
    """Arguments of a call; each row has a timestep of its own where ``timestep`` is a sequence."""
    generator = torch.Generator().manual_seed(1)
    sides = (side, side) if isinstance(side, int) else side
    return {
        "hidden_states": torch.randn(rows, 4, *sides, generator=generator),
        "encoder_hidden_states": torch.randn(rows, TEXT, CONDITIONING, generator=generator),
        "pooled_projections": torch.randn(rows, POOLED, generator=generator),
        "timestep": torch.tensor(timestep).expand(rows),
    }


def call(model: Any, **changes: Any) -> Tensor:
    with torch.no_grad():
        return model(**{**inputs(), **changes}).sample
