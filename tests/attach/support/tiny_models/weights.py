"""Random weights that show something: none stays at zero, and what attention adds is not lost."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
OUTPUTS = (".to_out.weight", ".to_out.0.weight", ".to_add_out.weight")  # of attention
LOUDNESS = 3.0  # fresh ones make a small share of the residual stream
QUERIES_AND_KEYS = (".to_q.weight", ".to_k.weight")


def seeded() -> None:
    torch.manual_seed(0)


def shown(model: Model, sharpness: float = 1.0) -> Model:
    """Give what starts at zero (ends of blocks, biases) random weights, and attention a louder output; in place.

    Without norms of queries and keys fresh projections give logits near 0: ``sharpness`` scales both.
    """
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.any():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
            elif name.endswith(OUTPUTS):
                weight.mul_(LOUDNESS)
            elif name.endswith(QUERIES_AND_KEYS):
                weight.mul_(sharpness)
    return model.eval()


def filled(model: Model) -> Model:
    """Random weights in a model whose class leaves its memory as it finds it; norms and biases at one."""
    generator = torch.Generator().manual_seed(12)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * weight.shape[-1] ** -0.5)
            else:
                weight.fill_(1.0)
    return model.eval()
