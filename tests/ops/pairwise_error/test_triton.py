"""The Triton kernels of ``pairwise_error``, on a GPU where there is one, else in the interpreter at small shapes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

from weft.kernels.common.grids import ceil_div
from weft.kernels.pairwise_error import bwd, fwd, launch
from weft.ops import pairwise_error
from weft.ops.pairwise_error.op import PAIRWISE_ERROR
from weft.testing import (
    PAIR_LAYOUTS,
    assert_as_accurate_as_eager,
    assert_bitwise,
    make_pairs,
    pairwise_error_eager,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.float16)
NAMES = ("dpred", "dtarget")
TRITON = next(backend for backend in PAIRWISE_ERROR.backends if backend.name == "triton")


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Blocks so small that a small pair has several, and few programs, so that one does several of them."""
    if DEVICE == "cpu":
        for module in (fwd, bwd, launch):
            patch.setattr(module, "BLOCK", 32)
        patch.setattr(launch, "WANTED_PROGRAMS", 12)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def differentiate(pred: Tensor, target: Tensor, function) -> dict[str, Tensor]:
    leaves = [x.detach().requires_grad_() for x in (pred, target)]
    error = function(*leaves)
    # not contiguous
    arriving = torch.linspace(-1, 2, error.numel(), dtype=error.dtype, device=error.device).view(error.T.shape).T
    gradients = torch.autograd.grad(error, leaves, arriving)
    return {"error": error.detach()} | dict(zip(NAMES, gradients, strict=True))


def call(pred: Tensor, target: Tensor) -> Tensor:
    return pairwise_error(pred, target, backend="triton")


def check(pred: Tensor, target: Tensor) -> None:
    found, eager = differentiate(pred, target, call), differentiate(pred, target, pairwise_error_eager)
    gold = differentiate(pred.double(), target.double(), pairwise_error_eager)
    for name, x in found.items():
        assert_as_accurate_as_eager(name, x, eager[name], gold[name], factor=3.0, size=gold[name].abs().max().item())


@given(
    rows=st.integers(1, 3),
    columns=st.integers(1, 5),
    rest=st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(PAIR_LAYOUTS),
    seed=st.integers(0, 99),
)
@settings(max_examples=30)
def test_any_errors_are_as_accurate_as_eager(rows, columns, rest, dtype, layout, seed):
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        check(*make_pairs(rows, columns, rest, dtype, layout, seed, DEVICE))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", PAIR_LAYOUTS)
def test_layouts(dtype, layout):
    pred, target = make_pairs(2, 3, (4, 5, 6), dtype, layout, device=DEVICE)
    check(pred, target)
    found = differentiate(pred, target, call)
    assert found["dpred"].stride() == torch.empty_like(pred).stride()


def test_the_blocks_of_a_device(monkeypatch):
    monkeypatch.undo()
    check(*make_pairs(2, 2, (3, 500), torch.float32, device=DEVICE))


@pytest.mark.parametrize("wanted", [0, 1])
def test_one_gradient_at_a_time(wanted):
    pair = make_pairs(3, 4, (5, 6), torch.float32, device=DEVICE)
    every = differentiate(*pair, call)
    leaf = pair[wanted].requires_grad_()
    arriving = torch.linspace(-1, 2, 12, device=DEVICE).view(4, 3).T
    assert_bitwise("gradient", torch.autograd.grad(call(*pair), [leaf], arriving)[0], every[NAMES[wanted]])


def test_twice_the_same_bits():
    pair = make_pairs(3, 4, (5, 6), torch.float16, device=DEVICE)
    once = differentiate(*pair, call)
    again = differentiate(*pair, call)
    for name, x in again.items():
        assert_bitwise(name, x, once[name])


def test_auto_never_takes_the_interpreter():
    if DEVICE == "cuda":
        pytest.skip("a GPU is here: the kernels are compiled")
    assert PAIRWISE_ERROR.choose("auto", *make_pairs(1, 1, (1,), torch.float32)).name == "cpu"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_refuses_what_the_interpreter_cannot_compute(dtype):
    if DEVICE == "cuda":
        pytest.skip("a GPU is here: the kernels are compiled")
    (reason,) = TRITON.refuse(*make_pairs(1, 1, (1,), dtype))
    assert reason.startswith("needs float32 or float16 under Triton's interpreter")


def test_the_op_imports_without_triton():
    code = "import sys; sys.modules['triton'] = None; from weft.ops import pairwise_error; import torch; "
    code += "print(pairwise_error(torch.ones(1, 2, 3), torch.zeros(1, 3)).sum().item())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2.0"


# --- launches, as arithmetic ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [1, 16, 256, 4096])
@pytest.mark.parametrize("values", [1, 1024, 1025, 16384, 65536, 10**6])
def test_parts_cover_all_values_and_none_is_empty(monkeypatch, pairs, values):
    monkeypatch.undo()
    parts, blocks = launch.choose_parts(pairs, values)
    assert (parts - 1) * blocks * launch.BLOCK < values <= parts * blocks * launch.BLOCK
    assert pairs * (parts - 1) < launch.WANTED_PROGRAMS


@pytest.mark.parametrize(("rows", "columns", "values"), [(1, 1, 1), (4, 16, 16384), (16, 16, 65536), (1, 4096, 8)])
def test_programs_cover_all_columns(monkeypatch, rows, columns, values):
    monkeypatch.undo()
    each = launch.choose_columns(rows, columns, values)
    assert 1 <= each <= columns
    assert ceil_div(columns, each) <= launch.WANTED_PROGRAMS
