"""Gradients of ``lowrank_linear`` by whatever computes it, and the oracle for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from weft.testing.lowrank_linear_inputs import LowrankInputs, lowrank_linear_eager
from weft.testing.oracles import assert_as_accurate_as_eager, assert_unbiased

Function = Callable[[LowrankInputs], Tensor]


def lowrank_gradients(
    inputs: LowrankInputs, function: Function, dy: Tensor, names: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Of the tensors of these names, or of all, by autograd through ``function``.

    Args:
        dy: Of the shape of the result; taken in the dtype of ``inputs``.
    """
    leaves = inputs.with_gradients()
    wanted = {name: x for name, x in leaves.tensors().items() if not names or name in names}
    for name, x in leaves.tensors().items():
        x.requires_grad_(name in wanted)
    found = torch.autograd.grad(
        function(leaves), list(wanted.values()), dy.to(inputs.x.dtype), allow_unused=True, materialize_grads=True
    )
    return dict(zip(wanted, found, strict=True))


def arriving_gradient(inputs: LowrankInputs) -> Tensor:
    """One to send back: like the result, always the same."""
    shape = lowrank_linear_eager(inputs).shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(inputs.x.device, inputs.x.dtype)


def assert_gradients_as_accurate_as_eager(inputs: LowrankInputs, function: Function) -> dict[str, Tensor]:
    """Hold every gradient of ``function`` to the error of plain operations in the same dtype, against float64.

    Returns:
        The gradients by name.

    Raises:
        AssertionError: One is too far off, or off in one direction.
    """
    dy = arriving_gradient(inputs)
    found = lowrank_gradients(inputs, function, dy)
    eager = lowrank_gradients(inputs, lowrank_linear_eager, dy)
    # by autograd through plain operations, of which the definition is made
    gold = lowrank_gradients(inputs.in_float64(), lowrank_linear_eager, dy)
    for name, gradient in found.items():
        size = gold[name].abs().max().item() + 1.0 if gold[name].numel() else 0.0
        for check in (assert_as_accurate_as_eager, assert_unbiased):
            check(f"d{name}", gradient, eager[name], gold[name], factor=3.0, size=size)
    return found
