"""``lowrank_linear`` against float64, and what its contract promises of bits, layouts and memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weft.ops import lowrank_linear
from weft.testing import (
    ADDENDS,
    GATES,
    WEIGHTS,
    X_LAYOUTS,
    LowrankCase,
    LowrankInputs,
    assert_as_accurate_as_eager,
    assert_bitwise,
    assert_unbiased,
    lowrank_linear_eager,
    make_lowrank_inputs,
)
from weft.testing.strategies import lowrank_cases

# triton has files of its own: interpreted, a call takes seconds
BACKENDS = ("cpu", "reference")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
IMAGES = ("image", "channels_last", "cropped_image")
CASE = LowrankCase(ranks=(4, 7, 2), residual="rows")
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def call(inputs: LowrankInputs, backend: str | None = None) -> Tensor:
    return lowrank_linear(**inputs.arguments(), backend=backend)


def gold(inputs: LowrankInputs) -> Tensor:
    return call(inputs.in_float64(), "reference")


def check(case: LowrankCase, backend: str, seed: int = 0) -> Tensor:
    inputs = make_lowrank_inputs(case, seed)
    found, eager, exact = call(inputs, backend), lowrank_linear_eager(inputs), gold(inputs)
    # sums of terms that may cancel
    size = 4.0 + sum(case.ranks) ** 0.5
    assert_as_accurate_as_eager("y", found, eager, exact, size=size)
    assert_unbiased("y", found, eager, exact, size=size)
    return found


# --- against float64 ------------------------------------------------------------------------------------------------


any_case = lowrank_cases(dtypes=DTYPES, most_rank=40, most_concepts=80, sides=(0, 15), samples=(0, 3))


@given(case=any_case, backend=st.sampled_from(BACKENDS), seed=st.integers(0, 99))
@settings(max_examples=150)
def test_any_call_is_as_accurate_as_eager(case, backend, seed):
    check(case, backend, seed)


@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("residual", ADDENDS)
def test_weights_and_addends(backend, dtype, weight, residual):
    check(replace(CASE, dtype=dtype, weight=weight, residual=residual), backend)


@each_backend
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("x_layout", X_LAYOUTS)
def test_gates_and_layouts(backend, gate, x_layout):
    check(replace(CASE, gate=gate, x_layout=x_layout), backend)


@each_backend
@pytest.mark.parametrize("width", [320, 1280])
def test_widths_of_real_models(backend, width):
    case = LowrankCase(1, (8, 8), width, width, (width // 20,) * 4, weight="convolution", residual="image")
    for dtype in DTYPES:
        check(replace(case, dtype=dtype), backend)


def test_the_letters_are_not_swapped():
    """down is applied first: [R, Cin]; up second: [Cout, R]."""
    x, weight = torch.randn(3, 5, dtype=torch.float64), torch.zeros(4, 5, dtype=torch.float64)
    down, up = torch.randn(2, 5, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    y = lowrank_linear(x, weight, down=down, up=up, backend="reference")
    torch.testing.assert_close(y, x @ (up @ down).T)


def test_the_gate_form_is_the_blend_of_two_projections():
    inputs = make_lowrank_inputs(replace(CASE, dtype=torch.float64, ranks=(16,), residual="none"))
    assert inputs.weight is not None and inputs.bias is not None and inputs.gate is not None
    mask = (inputs.gate > 0).double()
    found = call(replace(inputs, gate=mask))
    plain = inputs.x @ inputs.weight.T + inputs.bias
    adapted = inputs.x @ (inputs.weight + inputs.up @ inputs.down).T + inputs.bias
    torch.testing.assert_close(found, (1 - mask) * plain + mask * adapted, rtol=1e-11, atol=1e-11)


# --- what the contract promises -------------------------------------------------------------------------------------


@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight", ["linear", "base"])
@pytest.mark.parametrize("residual", ["none", "rows", "image"])
def test_a_closed_gate_gives_the_bits_of_the_layer_alone(backend, dtype, weight, residual):
    inputs = make_lowrank_inputs(replace(CASE, dtype=dtype, weight=weight, residual=residual, closed=1.0))
    assert inputs.gate is not None and not inputs.gate.any()
    assert_bitwise("y", call(inputs, backend), call(inputs.without_concepts(), backend))


def test_rows_where_every_gate_is_closed_have_the_bits_of_the_layer_alone():
    inputs = make_lowrank_inputs(replace(CASE, ranks=(3,)))
    closed = (inputs.gate == 0)[..., 0]
    assert closed.any() and not closed.all()
    found, alone = call(inputs, "reference"), call(inputs.without_concepts(), "reference")
    assert_bitwise("y", found[closed], alone[closed])
    assert (found - alone)[~closed].abs().amax(1).min() > 1e-2


@each_backend
def test_slots_that_are_not_filled_add_nothing(backend):
    """Concepts of ranks 4, 7 and 2 in slots of 8, the rest zeros: static shapes for exchanging them."""
    inputs = make_lowrank_inputs(CASE)
    down, up = inputs.x.new_zeros(24, CASE.width_in), inputs.x.new_zeros(CASE.width_out, 24)
    start = 0
    for slot, rank in enumerate(CASE.ranks):
        down[8 * slot : 8 * slot + rank] = inputs.down[start : start + rank]
        up[:, 8 * slot : 8 * slot + rank] = inputs.up[:, start : start + rank]
        start += rank
    padded = replace(inputs, down=down, up=up, ranks=(8, 8, 8))
    torch.testing.assert_close(call(padded, backend), call(inputs, backend), rtol=1e-5, atol=1e-5)


@each_backend
def test_each_image_of_a_batch_uses_other_concepts(backend):
    """64 concepts are there; image i has concept i alone, as if it were called by itself."""
    case = LowrankCase(5, (3, 4), 16, 12, (2,) * 64, gate="samples", closed=0.0)
    inputs = make_lowrank_inputs(case)
    gate = torch.zeros(5, 64)
    gate[torch.arange(5), 7 * torch.arange(5)] = 0.5
    found = call(replace(inputs, gate=gate), backend)
    for i in range(5):
        ranks = slice(14 * i, 14 * i + 2)
        down, up = inputs.down[ranks], inputs.up[:, ranks]
        alone = lowrank_linear(
            inputs.x[i], inputs.weight, inputs.bias, down=down, up=up, gate=torch.tensor([0.5]), backend=backend
        )
        torch.testing.assert_close(found[i], alone, rtol=1e-5, atol=1e-5)


@each_backend
def test_permuted_concepts_are_the_same_concepts(backend):
    inputs = make_lowrank_inputs(replace(CASE, ranks=(3, 3, 3), residual="none"))
    order = torch.tensor([2, 0, 1])
    places = (3 * order[:, None] + torch.arange(3)).flatten()
    permuted = replace(
        inputs, down=inputs.down[places], up=inputs.up[:, places], gate=inputs.gate[..., order].contiguous()
    )
    torch.testing.assert_close(call(permuted, backend), call(inputs, backend), rtol=1e-5, atol=1e-5)


@each_backend
def test_one_concept_needs_no_ranks(backend):
    inputs = make_lowrank_inputs(replace(CASE, ranks=(5,)))
    assert_bitwise("y", call(replace(inputs, ranks=None), backend), call(inputs, backend))


@each_backend
@pytest.mark.parametrize("residual", ADDENDS)
@pytest.mark.parametrize("weight", ["linear", "base"])
def test_the_form_of_the_result(backend, residual, weight):
    case = replace(CASE, residual=residual, weight=weight)
    y = call(make_lowrank_inputs(case), backend)
    if residual not in IMAGES:
        assert y.shape == (2, 24, 24) and y.is_contiguous()
        return
    assert y.shape == (2, 24, 4, 6)
    format = torch.channels_last if residual == "channels_last" else torch.contiguous_format
    assert y.is_contiguous(memory_format=format)


@each_backend
def test_a_grid_makes_an_image(backend):
    inputs = make_lowrank_inputs(replace(CASE, residual="none", as_image=True, x_layout="image"))
    image, rows = call(inputs, backend), call(replace(inputs, grid=None), backend)
    assert image.shape == (2, 24, 4, 6) and image.is_contiguous()
    torch.testing.assert_close(image.flatten(2).transpose(1, 2), rows, rtol=1e-5, atol=1e-5)


@each_backend
@pytest.mark.parametrize("leading", [(), (2, 3)], ids=["rows alone", "two axes of samples"])
def test_any_number_of_leading_axes(backend, leading):
    samples = 6 if leading else 1
    inputs = make_lowrank_inputs(replace(CASE, samples=samples))
    expected = call(inputs, backend)
    shaped = replace(
        inputs, x=inputs.x.view(*leading, 24, 40), residual=inputs.residual.view(*leading, 24, 24), gate=inputs.gate
    )
    assert_bitwise("y", call(shaped, backend), expected.view(*leading, 24, 24))
    if not leading:
        assert_bitwise("y", call(replace(shaped, gate=inputs.gate[0]), backend), expected[0])


@each_backend
@pytest.mark.parametrize("weight", ["linear", "base"])
def test_nothing_is_written_but_the_result(backend, weight):
    inputs = make_lowrank_inputs(replace(CASE, weight=weight))
    before = inputs.mapped(torch.clone)
    for one in (inputs, inputs.without_concepts(), replace(inputs.without_concepts(), residual=None)):
        y = call(one, backend)
        y.fill_(7.0)
    for name, x in inputs.tensors().items():
        assert_bitwise(name, x, before.tensors()[name])


@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_twice_the_same_bits(backend, dtype):
    inputs = make_lowrank_inputs(replace(CASE, dtype=dtype, residual="image"))
    assert_bitwise("y", call(inputs, backend), call(inputs, backend))


@each_backend
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)], ids=["no samples", "no rows"])
def test_zero_sizes(backend, shape):
    inputs = make_lowrank_inputs(replace(CASE, samples=shape[0], grid=shape[1:]))
    assert call(inputs, backend).shape == (shape[0], shape[1] * shape[2], 24)
