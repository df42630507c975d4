"""Random weights that show something: none stays at zero, attention is not flat, and its output is not lost."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
# fresh projections of queries and keys give logits near 0, and those of the output a small share of the residual
LOUDER = {
    **dict.fromkeys(("to_q", "to_k", "add_q_proj", "add_k_proj"), 4.0),
    **dict.fromkeys(("to_out", "to_out.0", "to_add_out"), 3.0),
}


def seeded() -> None:
    torch.manual_seed(0)


def shown(model: Model) -> Model:
    """Give what starts at zero (ends of blocks, biases) random weights, and attention louder ones; in place."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.any():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
            for part, factor in LOUDER.items():
                if name.endswith(f".{part}.weight"):
                    weight.mul_(factor)
    return model.eval()
