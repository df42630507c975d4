"""``pairwise_error`` and ``bounded_logit`` against float64, and what their contracts promise."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import weft
from weft.ops import bounded_logit, pairwise_error
from weft.ops.pairwise_error import cpu
from weft.testing import (
    PAIR_LAYOUTS,
    assert_as_accurate_as_eager,
    assert_bitwise,
    assert_unbiased,
    make_pairs,
    pairwise_error_eager,
)

# triton has a file of its own: interpreted, a call takes seconds
BACKENDS = ("cpu", "reference")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NAMES = ("dpred", "dtarget")
each_backend = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def few_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few values at a time that columns are taken in several parts."""
    monkeypatch.setattr(cpu, "HELD_VALUES", 300)


def differentiate(pred: Tensor, target: Tensor, function) -> dict[str, Tensor]:
    """The errors and both gradients."""
    leaves = [x.detach().requires_grad_() for x in (pred, target)]
    error = function(*leaves)
    arriving = torch.linspace(-1, 2, error.numel(), dtype=error.dtype).view_as(error)
    gradients = torch.autograd.grad(error, leaves, arriving)
    return {"error": error.detach()} | dict(zip(NAMES, gradients, strict=True))


def check(pred: Tensor, target: Tensor, backend: str) -> None:
    found = differentiate(pred, target, lambda *x: pairwise_error(*x, backend=backend))
    eager = differentiate(pred, target, pairwise_error_eager)
    gold = differentiate(pred.double(), target.double(), pairwise_error_eager)
    for name, x in found.items():
        size = gold[name].abs().max().item()
        assert_as_accurate_as_eager(name, x, eager[name], gold[name], factor=3.0, size=size)
        assert_unbiased(name, x, eager[name], gold[name], factor=3.0, size=size)


# --- against float64 ------------------------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 7),
    rest=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(PAIR_LAYOUTS),
    backend=st.sampled_from(BACKENDS),
    seed=st.integers(0, 99),
)
@settings(max_examples=80)
def test_any_errors_are_as_accurate_as_eager(rows, columns, rest, dtype, layout, backend, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "HELD_VALUES", 30)
        check(*make_pairs(rows, columns, rest, dtype, layout, seed), backend)


@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", PAIR_LAYOUTS)
def test_latents(backend, dtype, layout):
    check(*make_pairs(3, 5, (4, 16, 16), dtype, layout), backend)


@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_errors_much_smaller_than_the_values(backend, dtype):
    """What expanding the square would lose: a difference of 1e-3 beside values of 10."""
    target = torch.full((2, 4, 8), 10.0, dtype=dtype)
    pred = (target.double()[:, None] + torch.finfo(dtype).eps * 40 * torch.randn(2, 3, 4, 8).double()).to(dtype)
    check(pred, target, backend)


def test_finite_differences():
    pred, target = (x.requires_grad_() for x in make_pairs(2, 3, (2, 2), torch.float64))
    assert torch.autograd.gradcheck(pairwise_error, (pred, target))


# --- what the contract promises -------------------------------------------------------------------------------------


@each_backend
@pytest.mark.parametrize("wanted", [0, 1])
def test_one_gradient_at_a_time(backend, wanted):
    pair = make_pairs(3, 4, (5, 6), torch.float32)
    every = differentiate(*pair, lambda *x: pairwise_error(*x, backend=backend))
    leaf = pair[wanted].requires_grad_()
    error = pairwise_error(*pair, backend=backend)
    arriving = torch.linspace(-1, 2, 12).view(3, 4)
    assert_bitwise("gradient", torch.autograd.grad(error, [leaf], arriving)[0], every[NAMES[wanted]])


@each_backend
def test_twice_the_same_bits(backend):
    pair = make_pairs(3, 4, (5, 6), torch.bfloat16)
    once = differentiate(*pair, lambda *x: pairwise_error(*x, backend=backend))
    again = differentiate(*pair, lambda *x: pairwise_error(*x, backend=backend))
    for name, x in again.items():
        assert_bitwise(name, x, once[name])


def test_the_gradient_of_the_whole_loss():
    """SoftREPA's: errors, bounded logits, softmax over captions; d/de as its sheet derives it."""
    pred, target = make_pairs(4, 4, (2, 3), torch.float64)
    error = pairwise_error(pred.mul(0.1).requires_grad_(), target.mul(0.1))
    error.retain_grad()
    logits = bounded_logit(error)
    F.cross_entropy(logits, torch.arange(4)).backward()
    p = logits.detach().softmax(1)
    expected = -(4 / 0.07) * (-error.detach() / 0.07).exp() * (p - torch.eye(4)) / 4
    torch.testing.assert_close(error.grad, expected)


def test_bounded_logit():
    error = torch.tensor([0.0, 0.07, 100.0])
    torch.testing.assert_close(bounded_logit(error), torch.tensor([4.0, 4.0 / torch.e, 0.0]))
    scale, width = (torch.tensor(x, requires_grad=True) for x in (2.0, 0.5))
    bounded_logit(error, scale, width).sum().backward()
    assert scale.grad is not None and width.grad is not None and width.grad > 0


# --- registration ---------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("layout", PAIR_LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(layout, dtype):
    pred, target = make_pairs(2, 3, (4, 5, 6), dtype, layout)
    leaves = [x.detach().requires_grad_() for x in (pred, target)]
    torch.library.opcheck(torch.ops.weft.pairwise_error.default, (*leaves, ""))
    for wanted in ((True, True), (True, False), (False, True)):
        arguments = (torch.randn(3, 2).T, pred, target, *wanted, "")
        torch.library.opcheck(torch.ops.weft.pairwise_error_backward.default, arguments)


def test_compiles_without_a_break_and_once(fresh_compiler):
    def loss(pred: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(bounded_logit(pairwise_error(pred * 1.5, target)), torch.arange(pred.shape[0]))

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, fullgraph=True, backend=counter, dynamic=True)
    for rows, columns in ((3, 4), (5, 7), (2, 9)):
        pair = make_pairs(rows, columns, (6, 8), torch.float32)
        torch.testing.assert_close(compiled(*pair), loss(*pair))
        leaves = [x.requires_grad_() for x in pair]
        found, expected = (torch.autograd.grad(f(*leaves), leaves) for f in (compiled, loss))
        torch.testing.assert_close(found, expected)
    assert counter.frame_count <= 2, "one graph without gradients, and one with"


# --- messages -------------------------------------------------------------------------------------------------------


def pair(**changed: Any) -> dict[str, Any]:
    return {"pred": torch.zeros(2, 3, 4, 5), "target": torch.zeros(2, 4, 5)} | changed


BAD = {
    "pred is a list": (pair(pred=[[1.0]]), TypeError, "`pred` must be a tensor; got list"),
    "target integer": (
        pair(target=torch.zeros(2, 4, 5).int()),
        TypeError,
        "`target` must be float32, bfloat16, float1",
    ),
    "two axes": (pair(pred=torch.zeros(2, 3)), ValueError, "`pred` must be [R, C, ...], no axis empty; got [2, 3]"),
    "nothing to compare": (pair(pred=torch.zeros(2, 0, 4)), ValueError, "no axis empty; got [2, 0, 4]"),
    "target of pairs": (
        pair(target=torch.zeros(2, 3, 4, 5)),
        ValueError,
        "`target` must be [R, ...] = [2, 4, 5] to match pred [2, 3, 4, 5]; got [2, 3, 4, 5]",
    ),
    "another dtype": (
        pair(target=torch.zeros(2, 4, 5).half()),
        TypeError,
        "`target` must have the dtype of pred, float32; got float16; convert it with .to(pred.dtype)",
    ),
    "another device": (
        pair(target=torch.zeros(2, 4, 5, device="meta")),
        ValueError,
        "`target` must be on the device of pred, cpu; got meta",
    ),
    "an unknown backend": (pair(backend="fast"), ValueError, "must be one of auto, cuda, triton, cpu, reference; got"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_messages(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        pairwise_error(**call)


BAD_LOGITS = {
    "error is a number": ((1.0,), TypeError, "`error` must be a tensor; got float"),
    "error integer": (
        (torch.ones(2).int(),),
        TypeError,
        "`error` must be float32, bfloat16, float16 or float64; got int32",
    ),
    "scale is text": ((torch.ones(2), "4"), TypeError, "`scale` must be a number or a tensor; got str"),
    "width of zero": ((torch.ones(2), 4, 0.0), ValueError, "`width` must be above 0 and finite; got 0.0"),
    "widths": ((torch.ones(2), 4, torch.ones(2)), ValueError, "`width` must be one number; got [2]"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD_LOGITS.values(), ids=BAD_LOGITS)
def test_messages_of_the_logit(call, error, message):
    with pytest.raises(error, match=re.escape(f"bounded_logit: {message}")):
        bounded_logit(*call)


def test_a_backend_that_refuses_says_why():
    with pytest.raises(weft.BackendUnavailableError, match="has no `cuda` backend"):
        pairwise_error(**pair(), backend="cuda")
