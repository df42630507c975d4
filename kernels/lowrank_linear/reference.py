"""The definition of ``lowrank_linear`` in plain PyTorch. Every other backend answers to this file.

Nothing is rounded on the way: all products are taken in fp32, or fp64 for fp64 input, and the result is rounded once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import Arguments


def lowrank_linear_reference(call: Arguments) -> Tensor:
    """Apply a linear layer and, each as far as its gate is open, the low-rank terms of several concepts.

        y = x W^T + b + ((x A^T) * expand(G)) B^T + residual

    A stacks the factors of all concepts, ``ranks`` says how many of its rows are each one's, and ``expand`` repeats
    the gate of a concept that often. With ``base`` in place of W and b, y = base + the rest.

    Args:
        call: Of any strides; ``channels_first`` is left to the caller.

    Returns:
        [B, N, Cout] in the dtype of ``x``.

    Source:
        LoRA (Hu et al. 2021, arXiv:2106.09685) for the term; Personalized Residuals (Ham et al. 2024,
        arXiv:2405.12978) for the gate: (1 - M) (W x + b) + M ((W + B A) x + b) = W x + b + M (B A x). **That paper
        calls A what is B here, and B what is A.**
    """
    x, down, up = call.x, call.down, call.up
    wide = torch.promote_types(x.dtype, torch.float32)
    if call.weight is None:
        assert call.base is not None
        y = call.base.to(wide)
    else:
        y = x.to(wide) @ call.weight.to(wide).T
        if call.bias is not None:
            y = y + call.bias.to(wide)
    if down is not None and up is not None:
        h = x.to(wide) @ down.to(wide).T  # [B, N, R]
        if call.gate is not None:
            h = h * expand_gate(call.gate.to(wide), call.ranks)
        y = y + h @ up.to(wide).T
    if call.residual is not None:
        y = y + call.residual.to(wide)
    return y.to(x.dtype)


def expand_gate(gate: Tensor, ranks: tuple[int, ...]) -> Tensor:
    """One value a rank, [..., K] to [..., R]."""
    if len(set(ranks)) == 1:
        return gate.unsqueeze(-1).expand(*gate.shape, ranks[0]).flatten(-2)
    repeats = torch.tensor(ranks, device=gate.device)
    return gate.repeat_interleave(repeats, dim=-1, output_size=sum(ranks))
