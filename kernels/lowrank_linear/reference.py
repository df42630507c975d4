"""The definition of ``lowrank_linear`` in plain PyTorch. Every other backend answers to this file.

Nothing is rounded on the way: all products are taken in fp32, or fp64 for fp64 input, and the result is rounded once.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lowrank_linear_reference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    down: Tensor | None = None,
    up: Tensor | None = None,
    ranks: tuple[int, ...] = (),
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    base: Tensor | None = None,
) -> Tensor:
    """Apply a linear layer and, each as far as its gate is open, the low-rank terms of several concepts.

        y = x W^T + b + ((x A^T) * expand(G)) B^T + residual

    A stacks the factors of all concepts, ``ranks`` says how many of its rows are each one's, and ``expand`` repeats
    the gate of a concept that often. With ``base`` in place of W and b, y = base + the rest.

    Args:
        x: [B, N, Cin], any float dtype.
        weight: W, [Cout, Cin], dtype of ``x``; None where ``base`` is given.
        bias: b, [Cout], or None.
        down: A, [R, Cin], applied first; None for no concepts.
        up: B, [Cout, R]; None with ``down``.
        ranks: Of each of the K concepts, sum R.
        gate: G, [B or 1, N or 1, K], fp32 (fp64 for fp64 input); None for 1 everywhere.
        residual: [B, N, Cout], or None.
        base: [B, N, Cout], what the layer itself gave; None where ``weight`` is given.

    Returns:
        [B, N, Cout] in the dtype of ``x``.

    Source:
        LoRA (Hu et al. 2021, arXiv:2106.09685) for the term; Personalized Residuals (Ham et al. 2024,
        arXiv:2405.12978) for the gate: (1 - M) (W x + b) + M ((W + B A) x + b) = W x + b + M (B A x). **That paper
        calls A what is B here, and B what is A.**
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    if weight is None:
        assert base is not None
        y = base.to(wide)
    else:
        y = x.to(wide) @ weight.to(wide).T
        if bias is not None:
            y = y + bias.to(wide)
    if down is not None and up is not None:
        h = x.to(wide) @ down.to(wide).T  # [B, N, R]
        if gate is not None:
            h = h * expand_gate(gate.to(wide), ranks)
        y = y + h @ up.to(wide).T
    if residual is not None:
        y = y + residual.to(wide)
    return y.to(x.dtype)


def expand_gate(gate: Tensor, ranks: tuple[int, ...]) -> Tensor:
    """One value a rank, [..., K] to [..., R]."""
    if len(set(ranks)) == 1:
        return gate.unsqueeze(-1).expand(*gate.shape, ranks[0]).flatten(-2)
    repeats = torch.tensor(ranks, device=gate.device)
    return gate.repeat_interleave(repeats, dim=-1, output_size=sum(ranks))
