"""Gradients of ``lowrank_linear`` through the registered operator, against float64 autograd of the definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weft.ops import lowrank_linear
from weft.testing import (
    LowrankCase,
    LowrankInputs,
    assert_bitwise,
    assert_gradients_as_accurate_as_eager,
    lowrank_gradients,
    make_lowrank_inputs,
)
from weft.testing.strategies import lowrank_cases

CASE = LowrankCase(ranks=(4, 7, 2), residual="rows")
NAMES = ("x", "weight", "bias", "down", "up", "gate", "residual")


def call(inputs: LowrankInputs) -> Tensor:
    return lowrank_linear(**inputs.arguments())


def check(case: LowrankCase, seed: int = 0) -> dict[str, Tensor]:
    return assert_gradients_as_accurate_as_eager(make_lowrank_inputs(case, seed), call)


@given(case=lowrank_cases(dtypes=(torch.float32, torch.bfloat16, torch.float16)), seed=st.integers(0, 99))
@settings(max_examples=60)
def test_any_gradient_is_as_accurate_as_eager(case, seed):
    check(case, seed)


@pytest.mark.parametrize("weight", ["linear", "convolution", "base"])
@pytest.mark.parametrize("residual", ["none", "rows", "image", "channels_last"])
def test_weights_and_addends(weight, residual):
    found = check(replace(CASE, weight=weight, residual=residual))
    assert min(gradient.abs().max() for gradient in found.values()) > 1e-2


@pytest.mark.parametrize("gate", ["concepts", "samples", "rows", "shared_rows", "strided_rows"])
def test_gates(gate):
    check(replace(CASE, gate=gate))


def test_finite_differences():
    case = replace(CASE, samples=2, grid=(1, 3), width_in=5, width_out=4, ranks=(2, 1), dtype=torch.float64)
    inputs = make_lowrank_inputs(case).with_gradients()
    names = list(inputs.tensors())
    arguments = inputs.arguments()

    def function(*tensors: Tensor) -> Tensor:
        return lowrank_linear(**arguments | dict(zip(names, tensors, strict=True)))

    assert torch.autograd.gradcheck(function, list(inputs.tensors().values()))


@pytest.mark.parametrize("name", NAMES)
def test_one_gradient_at_a_time(name):
    """Only what is asked for is computed, with the bits that it has among the others."""
    inputs = make_lowrank_inputs(CASE)
    dy = torch.randn(2, 24, 24)
    every = lowrank_gradients(inputs, call, dy)
    leaf = getattr(inputs, name).detach().requires_grad_()
    (alone,) = torch.autograd.grad(call(replace(inputs, **{name: leaf})), [leaf], dy)
    assert_bitwise(name, alone, every[name])


def test_a_frozen_layer_has_no_gradient():
    inputs = make_lowrank_inputs(CASE)
    down, up = inputs.down.requires_grad_(), inputs.up.requires_grad_()
    call(inputs).square().sum().backward()
    assert down.grad is not None and up.grad is not None
    assert all(x.grad is None for name, x in inputs.tensors().items() if name not in ("down", "up"))


def test_factors_that_start_at_zero_learn():
    """up = 0, as LoRA starts: nothing changes, the gradient of up is there, that of down is zero."""
    inputs = make_lowrank_inputs(replace(CASE, closed=0.0))
    inputs = replace(inputs, up=torch.zeros_like(inputs.up))
    assert_bitwise("y", call(inputs), call(inputs.without_concepts()))
    found = lowrank_gradients(inputs, call, torch.randn(2, 24, 24))
    assert found["up"].any() and not found["down"].any()
