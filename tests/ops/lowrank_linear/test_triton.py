"""The Triton forward of ``lowrank_linear``, on a GPU where there is one, else in Triton's interpreter at small shapes.

The interpreter runs one program after another and rounds as numpy does: it shows logic, not races and not speed.
Every shape here stays at 32 programs or fewer.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

from weft.kernels.common import grids
from weft.kernels.lowrank_linear.arguments import Arguments
from weft.kernels.lowrank_linear.fwd import shrink
from weft.kernels.lowrank_linear.host import Call
from weft.ops import lowrank_linear
from weft.ops.lowrank_linear.op import LOWRANK_LINEAR
from weft.testing import (
    ADDENDS,
    GATES,
    WEIGHTS,
    X_LAYOUTS,
    LowrankCase,
    LowrankInputs,
    assert_as_accurate_as_eager,
    assert_bitwise,
    lowrank_linear_eager,
    make_lowrank_inputs,
)
from weft.testing.strategies import lowrank_cases

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FORMS = ("recompute", "append")
# several tiles of rows and of columns, none of them full, and a tile of rows that holds parts of both samples
CASE = LowrankCase(2, (5, 9), 40, 72, (4, 7, 2), residual="rows")
each_form = pytest.mark.parametrize("form", FORMS)
pytestmark = pytest.mark.usefixtures("small_lowrank_tiles")
TRITON = next(backend for backend in LOWRANK_LINEAR.backends if backend.name == "triton")


def drawn(case: LowrankCase, seed: int = 0) -> LowrankInputs:
    return make_lowrank_inputs(case, seed, DEVICE)


def record(inputs: LowrankInputs) -> Arguments:
    """What the op makes of inputs whose rows are [B, N, C]."""
    return Arguments(inputs.x, inputs.weight, inputs.bias, inputs.down, inputs.up, inputs.ranks, inputs.gate)


def call(inputs: LowrankInputs) -> Tensor:
    return lowrank_linear(**inputs.arguments(), backend="triton")


def check(inputs: LowrankInputs) -> Tensor:
    found = call(inputs)
    gold = lowrank_linear(**inputs.in_float64().arguments(), backend="reference")
    rank = 0 if inputs.down is None else inputs.down.shape[0]
    assert_as_accurate_as_eager("y", found, lowrank_linear_eager(inputs), gold, size=4.0 + rank**0.5)
    return found


# --- against float64 ------------------------------------------------------------------------------------------------


@given(
    case=lowrank_cases(
        dtypes=(torch.float32, torch.float16), widths=(1, 5, 16, 17, 40, 48), sides=(1, 7), most_rank=9
    ).map(lambda case: replace(case, samples=min(case.samples, 2))),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_any_call_is_as_accurate_as_eager(case, form, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Call, "form", property(lambda call: form if call.rank else "alone"))
        check(drawn(case, seed))


@each_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_weights(take, form, dtype, weight):
    take(form)
    check(drawn(replace(CASE, dtype=dtype, weight=weight)))


@pytest.mark.parametrize("weight", ["linear", "base"])
@pytest.mark.parametrize("residual", ADDENDS)
def test_addends(weight, residual):
    found = check(drawn(replace(CASE, weight=weight, residual=residual)))
    assert found.shape == ((2, 45, 72) if "rows" in residual or residual == "none" else (2, 72, 5, 9))


@each_form
@pytest.mark.parametrize("gate", GATES)
def test_gates(take, form, gate):
    take(form)
    check(drawn(replace(CASE, gate=gate)))


@each_form
@pytest.mark.parametrize("x_layout", X_LAYOUTS)
def test_layouts(take, form, x_layout):
    take(form)
    check(drawn(replace(CASE, x_layout=x_layout)))


@pytest.mark.parametrize("form", [*FORMS, "alone"])
def test_the_tiles_of_the_table(monkeypatch, form):
    """The tiles that a device would get, whole ones and parts."""
    monkeypatch.undo()
    monkeypatch.setattr(Call, "form", property(lambda call: form))
    check(drawn(replace(CASE, width_in=72, width_out=136, ranks=() if form == "alone" else (16, 20))))


@each_form
def test_several_tiles_of_columns_a_program(monkeypatch, take, form):
    """On a given base one program makes x A^T for all its columns."""
    monkeypatch.setattr(grids, "MIN_PROGRAMS", 1)
    take(form)
    check(drawn(replace(CASE, weight="base", residual="image")))


def test_many_concepts():
    """More ranks than one tile holds, most concepts closed for each sample: their tiles are passed over."""
    inputs = drawn(LowrankCase(3, (2, 8), 24, 20, (3,) * 30, gate="samples", closed=0.9))
    check(inputs)
    made = shrink(Call(record(inputs)._replace(gate=inputs.gate[:, None])))
    assert made.flags is not None
    assert (made.flags == 0).any() and (made.flags == 1).any()


# --- what the contract promises -------------------------------------------------------------------------------------


@each_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("weight", ["linear", "base"])
def test_a_closed_gate_gives_the_bits_of_the_layer_alone(take, form, dtype, weight):
    take(form)
    inputs = drawn(replace(CASE, dtype=dtype, weight=weight, residual="image", closed=1.0))
    assert_bitwise("y", call(inputs), call(inputs.without_concepts()))


@each_form
def test_rows_where_every_gate_is_closed_have_the_bits_of_the_layer_alone(take, form):
    take(form)
    inputs = drawn(replace(CASE, ranks=(3,)))
    closed = (inputs.gate == 0)[..., 0]
    found, alone = call(inputs), call(inputs.without_concepts())
    assert closed.any() and not closed.all()
    assert_bitwise("y", found[closed], alone[closed])


@each_form
def test_twice_the_same_bits(take, form):
    take(form)
    inputs = drawn(replace(CASE, dtype=torch.float16))
    assert_bitwise("y", call(inputs), call(inputs))


@each_form
@pytest.mark.parametrize("samples", [0, 2])
def test_zero_sizes(take, form, samples):
    take(form)
    grid = (3, 4) if not samples else (0, 4)
    assert call(drawn(replace(CASE, samples=samples, grid=grid))).shape == (samples, grid[0] * 4, 72)


# --- choosing it ----------------------------------------------------------------------------------------------------


def test_auto_never_takes_the_interpreter():
    if DEVICE == "cuda":
        pytest.skip("a GPU is here: the kernels are compiled")
    inputs = drawn(CASE)
    assert LOWRANK_LINEAR.choose("auto", record(inputs)).name == "cpu"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_refuses_what_the_interpreter_cannot_compute(dtype):
    if DEVICE == "cuda":
        pytest.skip("a GPU is here: the kernels are compiled")
    (reason,) = TRITON.refuse(Arguments(torch.zeros(1, 2, 3, dtype=dtype), None))
    assert reason.startswith("needs float32 or float16 under Triton's interpreter")


def test_the_op_imports_without_triton():
    code = "import sys; sys.modules['triton'] = None; from weft.ops import lowrank_linear; import torch; "
    code += "print(lowrank_linear(torch.ones(1, 2), torch.ones(3, 2)).sum().item())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "6.0"
