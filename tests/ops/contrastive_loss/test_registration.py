"""``weft::contrastive_loss`` as a registered operator: opcheck, torch.compile without breaks or recompilations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module

import pytest
import torch
import torch._inductor.config
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import weft
from weft.ops import Columns, contrastive_loss
from weft.ops.contrastive_loss.columns import as_segment
from weft.testing import ContrastiveCase, assert_bitwise, make_contrastive_inputs

CASE = ContrastiveCase(symmetric=True)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    # graphs kept on disk outlive a change of an operator's schema
    with torch._inductor.config.patch(force_disable_caches=True):
        yield
    torch._dynamo.reset()


def two_kinds(fake: Tensor, real: Tensor, temperature: Tensor, backend: str | None = None) -> Tensor:
    """Both forms of the arguments, between two other operations."""
    views = torch.arange(fake.shape[0]) // 2
    fake = fake * 1.5
    kinds = [
        Columns(fake, views, "self", temperature=0.5, weight=0.2),
        Columns(real, (views, torch.arange(real.shape[0])), temperature=temperature, symmetric=True),
    ]
    pair = contrastive_loss(fake, real, classes=(views, torch.arange(real.shape[0])), backend=backend)
    return contrastive_loss(fake, kinds, normalize=True, backend=backend) * 2 + pair


def features(fakes: int = 12, reals: int = 15, width: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(fakes + reals)
    fake, real = (torch.randn(n, width, generator=generator) for n in (fakes, reals))
    return fake, real, torch.tensor(0.3)


def leaves(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return [x.detach().requires_grad_() for x in tensors]


def operator_arguments(case: ContrastiveCase, segments: int = 2) -> tuple:
    x = make_contrastive_inputs(case)
    columns = Columns(x.cols, temperature=x.temperature, symmetric=x.symmetric, **x.relations)
    made = [as_segment(replace(columns, symmetric=case.symmetric and s > 0), x.rows) for s in range(segments)]
    values, temperatures, *rest = (list(of_each) for of_each in zip(*made, strict=True))
    return x.rows, values, torch.stack(temperatures), *rest, ""


@pytest.mark.parametrize("pairs", ["diagonal", "groups"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_forward(pairs, dtype):
    rows, values, temperatures, *rest = operator_arguments(
        replace(CASE, pairs=pairs, dtype=dtype, layout="transposed")
    )
    rows, temperatures, *values = leaves((rows, temperatures, *values))
    torch.library.opcheck(torch.ops.weft.contrastive_loss.default, (rows, values, temperatures, *rest))


@pytest.mark.parametrize(
    "wanted", [(True, [True, True], True), (True, [False, True], False), (False, [False] * 2, True)]
)
def test_opcheck_backward(wanted):
    *arguments, backend = operator_arguments(CASE)
    loss, statistics = torch.ops.weft.contrastive_loss.default(*arguments, backend)
    call = (torch.ones_like(loss), *arguments, statistics, *wanted, backend)
    torch.library.opcheck(torch.ops.weft.contrastive_loss_backward.default, call)


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_without_a_break_forward_and_backward(compiler):
    inputs = features()
    compiled = torch.compile(two_kinds, fullgraph=True, backend=compiler)

    def gradients(function) -> list[Tensor]:
        own = leaves(inputs)
        return list(torch.autograd.grad(function(*own), own))

    torch.testing.assert_close(compiled(*inputs), two_kinds(*inputs))
    for found, expected in zip(gradients(compiled), gradients(two_kinds), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_dynamic_sizes_compile_once():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(two_kinds, fullgraph=True, backend=counter, dynamic=True)
    counts = []
    for fakes, reals in ((12, 15), (20, 31), (8, 10)):
        inputs = features(fakes, reals)
        torch.testing.assert_close(compiled(*inputs), two_kinds(*inputs))
        counts.append(counter.frame_count)
    # the compiler may begin again while it learns which numbers are constants, but not at new sizes
    assert len(set(counts)) == 1


def test_a_temperature_that_is_learnt_does_not_recompile():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(two_kinds, fullgraph=True, backend=counter)
    fake, real, _ = features()
    for temperature in (0.3, 0.2, 0.07):
        arguments = (fake, real, torch.tensor(temperature))
        torch.testing.assert_close(compiled(*arguments), two_kinds(*arguments))
    assert counter.frame_count == 1


def test_a_named_backend_in_compiled_code():
    compiled = torch.compile(two_kinds, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*features(), "reference"), two_kinds(*features()))
    with pytest.raises(weft.BackendUnavailableError), weft.backend("cuda"):
        compiled(*features())


def test_bad_input_is_refused_while_compiling():
    compiled = torch.compile(two_kinds, fullgraph=True, backend="aot_eager")
    fake, real, temperature = features()
    with pytest.raises(Exception, match="to match rows"):
        compiled(fake, real[:, 1:], temperature)


def test_fake_tensors_trace():
    inputs = features()
    with FakeTensorMode() as mode:
        found = contrastive_loss(mode.from_tensor(inputs[0]), mode.from_tensor(inputs[1]))
    expected = contrastive_loss(*inputs[:2])
    assert found.shape == expected.shape and found.dtype == expected.dtype


def test_direct_and_registered_calls_agree_bit_for_bit():
    inputs = make_contrastive_inputs(CASE)
    registered, _ = torch.ops.weft.contrastive_loss.default(*operator_arguments(replace(CASE, symmetric=True), 2))
    one_way = contrastive_loss(**inputs.arguments() | {"symmetric": False})
    assert_bitwise("loss", registered, one_way + contrastive_loss(**inputs.arguments()))


def test_backward_is_that_of_the_backend_forward_was_asked_for(monkeypatch):
    """Although the block of ``weft.backend`` is over by then."""
    fake, real = leaves(features()[:2])
    with weft.backend("reference"):
        loss = contrastive_loss(fake, real)
    monkeypatch.setattr(import_module("weft.ops.contrastive_loss.cpu"), "_tiles", None)
    assert torch.autograd.grad(loss, [fake])[0].isfinite().all()


def test_checkpointing_recomputes_the_same():
    own = leaves(features())
    once = torch.autograd.grad(two_kinds(*own), own)
    twice = torch.autograd.grad(checkpoint(two_kinds, *own, use_reentrant=False), own)
    for a, b in zip(once, twice, strict=True):
        assert_bitwise("gradient", a, b)
