"""Random weights that show something: none stays at zero, and attention is not flat."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
SHARPNESS = 4.0  # of projections without a norm behind them: fresh ones give logits near 0, and flat maps
QUERIES_AND_KEYS = ("to_q", "to_k", "add_q_proj", "add_k_proj")


def seeded() -> None:
    torch.manual_seed(0)


def shown(model: Model) -> Model:
    """Give what starts at zero (ends of blocks, biases) random weights, and sharpen attention; in place, seeded."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.any():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
            elif any(f".{part}.weight" in name for part in QUERIES_AND_KEYS):
                weight.mul_(SHARPNESS)
    return model.eval()
