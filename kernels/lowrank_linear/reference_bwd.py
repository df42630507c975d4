"""The gradients of ``lowrank_linear`` in plain PyTorch, for backends without a backward of their own.

As in the definition nothing is rounded on the way; only what is asked for is computed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import Arguments
from .reference import expand_gate


class Wanted(NamedTuple):
    """Which gradients are asked for. Those of ``residual`` and ``base`` are that of the result."""

    x: bool
    weight: bool
    bias: bool
    down: bool
    up: bool
    gate: bool


def lowrank_linear_backward_reference(dy: Tensor, call: Arguments, wanted: Wanted) -> tuple[Tensor, ...]:
    """Gradients of the inputs of ``lowrank_linear_reference`` for the gradient ``dy`` at its result.

        h  = x A^T                    dh = dy B
        dx = dy W + (dh * G) A        dW = dy^T x        db = sum over rows of dy
        dA = (dh * G)^T x             dB = dy^T (h * G)  dG = sum over ranks of dh * h

    Args:
        dy: [B, N, Cout].
        call: What ``lowrank_linear_reference`` was given. Bias and addends are not read.
        wanted: Which of them to compute.

    Returns:
        dx, dweight, dbias, ddown, dup, dgate, each shaped as its input and in its dtype (the bias in that of ``x``);
        [0] where it is not wanted.
    """
    x, weight, down, up, gate = call.x, call.weight, call.down, call.up, call.gate
    wide = torch.promote_types(x.dtype, torch.float32)
    dy, x_wide = dy.to(wide), x.to(wide)
    # the results of an operator share no memory, not even where there is none
    found = {name: x.new_empty(0) for name in Wanted._fields}
    if wanted.bias:
        found["bias"] = dy.sum((0, 1)).to(x.dtype)
    if wanted.weight and weight is not None:
        found["weight"] = _sum_of_outer(dy, x_wide).to(weight.dtype)
    dx = dy @ weight.to(wide) if wanted.x and weight is not None else None
    if down is not None and up is not None:
        opened = 1.0 if gate is None else expand_gate(gate.to(wide), call.ranks)
        dh = dy @ up.to(wide)  # [B, N, R]
        if wanted.up or wanted.gate:
            h = x_wide @ down.to(wide).T
            if wanted.up:
                found["up"] = _sum_of_outer(dy, h * opened).to(up.dtype)
            if wanted.gate and gate is not None:
                found["gate"] = _gate_gradient(dh * h, call.ranks, gate)
        dh = dh * opened
        if wanted.down:
            found["down"] = _sum_of_outer(dh, x_wide).to(down.dtype)
        if wanted.x:
            through = dh @ down.to(wide)
            dx = through if dx is None else dx + through
    if wanted.x:
        found["x"] = torch.zeros_like(x) if dx is None else dx.to(x.dtype)
    return tuple(found[name] for name in Wanted._fields)


def _sum_of_outer(a: Tensor, b: Tensor) -> Tensor:
    """Sum over samples and rows of a^T b, [B, N, p] and [B, N, q] to [p, q]."""
    return a.flatten(0, 1).T @ b.flatten(0, 1)


def _gate_gradient(products: Tensor, ranks: tuple[int, ...], gate: Tensor) -> Tensor:
    """``products`` [B, N, R] summed over the ranks of each concept, and over axes that the gate shares."""
    by_concept = torch.stack([part.sum(-1) for part in torch.split(products, list(ranks), -1)], -1)  # [B, N, K]
    shared = [axis for axis in (0, 1) if gate.shape[axis] != by_concept.shape[axis]]
    return (by_concept.sum(shared, keepdim=True) if shared else by_concept).to(gate.dtype)
