"""What people do today for the same result, each as well as we know how; and the merged layer, which is the floor.

All take x as [B, N, Cin] and give [B, N, Cout], or an image where the residual is one. Weights are joined, stacked or
merged beforehand; gates are taken as they come, since masks and strengths are new in every block and at every step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases.lowrank_linear.problem import Problem, as_rows
from benchmarks.registry import Call
from weft.testing import LowrankInputs


def _layer(x: LowrankInputs) -> Tensor:
    """The layer alone, or what it gave."""
    if x.weight is not None:
        return F.linear(x.x, x.weight, x.bias)
    assert x.base is not None
    return as_rows(x.base)


def _add_residual(x: LowrankInputs, y: Tensor) -> Tensor:
    if x.residual is None:
        return y
    # the image first: the sum then lies as an image does
    return x.residual + y.transpose(1, 2).view_as(x.residual) if x.residual.ndim == 4 else y + x.residual


def _gates(x: LowrankInputs) -> Tensor | None:
    """The gate as [B or 1, N or 1, K] in the dtype of x."""
    if x.gate is None:
        return None
    gate = x.gate[None, None] if x.gate.ndim == 1 else x.gate[:, None] if x.gate.ndim == 2 else x.gate
    return gate.to(x.x.dtype)


def _expanded(x: LowrankInputs) -> Tensor | None:
    """The same with one value a rank; concepts are of one rank here."""
    gate = _gates(x)
    assert x.ranks is not None
    return None if gate is None else gate.repeat_interleave(x.ranks[0], -1)


def _concepts(x: LowrankInputs) -> list[tuple[Tensor, Tensor]]:
    """(down, up) of each concept."""
    assert x.down is not None and x.up is not None and x.ranks is not None
    return list(zip(x.down.split(x.ranks), x.up.split(x.ranks, 1), strict=True))


def merged(problem: Problem) -> Call:
    """The factors of all concepts added to the weight beforehand: no gates, nothing to do but the layer."""
    x = problem.inputs
    assert x.weight is not None and x.down is not None and x.up is not None
    weight = (x.weight.double() + x.up.double() @ x.down.double()).to(x.x.dtype)
    return problem.wrap(lambda: _add_residual(x, F.linear(x.x, weight, x.bias)))


def peft(problem: Problem) -> Call:
    """One adapter after the other: two small products, a factor, a sum."""
    x = problem.inputs

    def call() -> Tensor:
        y, gate = _layer(x), _gates(x)
        for k, (down, up) in enumerate(_concepts(x)):
            term = F.linear(F.linear(x.x, down), up)
            y = y + (term if gate is None else term * gate[..., k, None])
        return _add_residual(x, y)

    return problem.wrap(call)


def addmm(problem: Problem) -> Call:
    """The factors stacked, the gate on x A^T, the second product accumulated into the layer's result."""
    x = problem.inputs
    assert x.down is not None and x.up is not None
    down, up = x.down, x.up

    def call() -> Tensor:
        y, gate = _layer(x), _expanded(x)
        h = F.linear(x.x, down)
        h = h if gate is None else h * gate
        if problem.gradients:
            return _add_residual(x, y + F.linear(h, up))
        # a given base is not ours to write into
        sums = torch.addmm if x.weight is None else Tensor.addmm_
        y = sums(y.flatten(0, 1), h.flatten(0, 1), up.T).view_as(y)
        return _add_residual(x, y)

    return problem.wrap(call)


def bmm_image(problem: Problem) -> Call:
    """The same with both products written as an image, onto the residual."""
    x = problem.inputs
    assert x.weight is not None and x.bias is not None and x.down is not None and x.up is not None
    samples = len(x.x)
    weight, up = (matrix.expand(samples, -1, -1) for matrix in (x.weight, x.up))
    down, bias = x.down, x.bias[:, None]

    def call() -> Tensor:
        assert x.residual is not None
        h, gate = F.linear(x.x, down), _expanded(x)
        h = h if gate is None else h * gate
        y = torch.baddbmm(x.residual.flatten(2) + bias, weight, x.x.transpose(1, 2))
        return y.baddbmm_(up, h.transpose(1, 2)).view_as(x.residual)

    return problem.wrap(call)


def k_concatenation(problem: Problem) -> Call:
    """[x | h] [W | B]^T by one BLAS call; x lies in a wider buffer already, and the weights were joined beforehand."""
    x = problem.inputs
    assert x.weight is not None and x.down is not None and x.up is not None
    down, width = x.down, x.x.shape[2]
    joined = torch.cat([x.weight, x.up], 1)
    buffer = x.x.new_empty(*x.x.shape[:2], joined.shape[1])
    buffer[..., :width] = x.x
    hidden, h = buffer[..., :width], buffer[..., width:]

    def call() -> Tensor:
        made, gate = F.linear(hidden, down), _expanded(x)
        h.copy_(made if gate is None else made * gate)
        return _add_residual(x, F.linear(buffer, joined, x.bias))

    return problem.wrap(call)


def blend(problem: Problem) -> Call:
    """A whole projection for the layer and one for each concept, its weight merged, then the blend by gates."""
    x = problem.inputs
    assert x.weight is not None and x.gate is not None
    weights = [x.weight + up @ down for down, up in _concepts(x)]

    def call() -> Tensor:
        gate = _gates(x)
        assert gate is not None
        y = F.linear(x.x, x.weight, x.bias) * (1 - gate.sum(-1, keepdim=True))
        for k, weight in enumerate(weights):
            y = y + F.linear(x.x, weight, x.bias) * gate[..., k, None]
        return _add_residual(x, y)

    return problem.wrap(call)
