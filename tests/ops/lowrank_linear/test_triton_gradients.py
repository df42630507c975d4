"""The Triton backward of ``lowrank_linear`` at shapes the interpreter can do: every input, both forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

from weft.kernels.common import grids
from weft.kernels.lowrank_linear.host import Call
from weft.ops import lowrank_linear
from weft.testing import (
    LowrankCase,
    LowrankInputs,
    arriving_gradient,
    assert_bitwise,
    assert_gradients_as_accurate_as_eager,
    lowrank_gradients,
    make_lowrank_inputs,
)
from weft.testing.strategies import lowrank_cases

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FORMS = ("recompute", "append")
CASE = LowrankCase(2, (5, 9), 40, 24, (4, 7, 2), residual="rows")
each_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(autouse=True)
def few_programs(small_lowrank_tiles: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few parts of a sum, so that there are few programs, but more than one."""
    if DEVICE == "cpu":
        monkeypatch.setattr(grids, "MIN_PROGRAMS", 6)


def call(inputs: LowrankInputs) -> Tensor:
    return lowrank_linear(**inputs.arguments(), backend="triton")


def check(case: LowrankCase, seed: int = 0) -> dict[str, Tensor]:
    return assert_gradients_as_accurate_as_eager(make_lowrank_inputs(case, seed, DEVICE), call)


@given(
    case=lowrank_cases(
        dtypes=(torch.float32, torch.float16), widths=(1, 5, 16, 17, 40), sides=(1, 7), most_rank=9
    ).map(lambda case: replace(case, samples=min(case.samples, 2))),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 99),
)
@settings(max_examples=12)
def test_any_gradient_is_as_accurate_as_eager(case, form, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Call, "form", property(lambda call: form if call.rank else "alone"))
        check(case, seed)


@each_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("weight", ["linear", "convolution", "base"])
def test_weights(take, form, dtype, weight):
    take(form)
    found = check(replace(CASE, dtype=dtype, weight=weight))
    assert min(gradient.abs().max() for gradient in found.values()) > 1e-2


@each_form
@pytest.mark.parametrize("gate", ["none", "concepts", "samples", "rows", "shared_rows", "strided_rows"])
def test_gates(take, form, gate):
    take(form)
    check(replace(CASE, gate=gate))


@pytest.mark.parametrize("residual", ["none", "image", "channels_last"])
def test_addends(residual):
    check(replace(CASE, residual=residual))


@each_form
@pytest.mark.parametrize("name", ["x", "weight", "bias", "down", "up", "gate", "residual"])
def test_one_gradient_at_a_time(take, form, name):
    """Only what is asked for is computed, to the accuracy that it has among the others."""
    take(form)
    inputs = make_lowrank_inputs(CASE, 0, DEVICE)
    dy = arriving_gradient(inputs)
    alone = lowrank_gradients(inputs, call, dy, (name,))[name]
    torch.testing.assert_close(alone, lowrank_gradients(inputs, call, dy)[name], rtol=1e-5, atol=1e-5)


def test_the_tiles_of_the_table(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(grids, "MIN_PROGRAMS", 6)
    check(replace(CASE, width_in=72, width_out=72))


def test_one_part_and_many_parts_of_a_sum_agree(monkeypatch):
    inputs = make_lowrank_inputs(CASE, 0, DEVICE)
    dy = arriving_gradient(inputs)
    cut = lowrank_gradients(inputs, call, dy)
    monkeypatch.setattr(grids, "MIN_PROGRAMS", 1)
    for name, gradient in lowrank_gradients(inputs, call, dy).items():
        torch.testing.assert_close(gradient, cut[name], rtol=1e-5, atol=1e-5)


def test_more_concepts_than_a_tile_of_the_gate_holds():
    check(LowrankCase(1, (2, 9), 16, 16, (1, 2) * 20, closed=0.5))


def test_twice_the_same_bits():
    inputs = make_lowrank_inputs(replace(CASE, dtype=torch.float16), 0, DEVICE)
    dy = arriving_gradient(inputs)
    once = lowrank_gradients(inputs, call, dy)
    for name, gradient in lowrank_gradients(inputs, call, dy).items():
        assert_bitwise(f"d{name}", gradient, once[name])


@pytest.mark.parametrize("samples", [0, 2])
def test_zero_sizes(samples):
    case = replace(CASE, samples=samples, grid=(0, 4) if samples else (3, 4))
    for name, gradient in check(case).items():
        assert not gradient.any(), name
