"""``weft::lowrank_linear`` as a registered operator: opcheck, torch.compile without graph breaks or recompilations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch._inductor.config
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import weft
from weft.ops import lowrank_linear
from weft.testing import LowrankCase, LowrankInputs, assert_bitwise, make_lowrank_inputs

CASE = LowrankCase(ranks=(4, 7, 2), residual="rows")
FORMS = {
    "rows": CASE,
    "image": replace(CASE, residual="image", weight="convolution"),
    "channels_last": replace(CASE, residual="channels_last", x_layout="image"),
    "base": replace(CASE, weight="base", residual="image"),
    "layer_alone": replace(CASE, ranks=(), residual="none"),
}
each_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    # graphs kept on disk outlive a change of an operator's schema
    with torch._inductor.config.patch(force_disable_caches=True):
        yield
    torch._dynamo.reset()


def project(inputs: LowrankInputs, backend: str | None = None) -> Tensor:
    """The op between two others, as at the end of a transformer block."""
    return lowrank_linear(**inputs.arguments() | {"x": inputs.x * 1.5}, backend=backend) * 2


def operator_arguments(case: LowrankCase, channels_first: bool) -> tuple:
    x = make_lowrank_inputs(replace(case, residual="rows"))
    return (x.x, x.weight, x.bias, x.down, x.up, x.ranks or (), x.gate, x.residual, x.base, channels_first, "")


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("weight", ["linear", "transposed", "base"])
@pytest.mark.parametrize("ranks", [(4, 7), ()], ids=["concepts", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_forward(channels_first, weight, ranks, dtype):
    case = replace(CASE, weight=weight, ranks=ranks, dtype=dtype, x_layout="image")
    arguments = operator_arguments(case, channels_first)
    leaves = [x.detach().requires_grad_() if isinstance(x, Tensor) else x for x in arguments]
    torch.library.opcheck(torch.ops.weft.lowrank_linear.default, tuple(leaves))


@pytest.mark.parametrize("wanted", [(True,) * 6, (False, False, False, True, True, False)], ids=["all", "factors"])
@pytest.mark.parametrize("weight", ["linear", "base"])
def test_opcheck_backward(wanted, weight):
    inputs = make_lowrank_inputs(replace(CASE, weight=weight))
    dy = torch.randn(2, 24, 24).transpose(1, 2).contiguous().transpose(1, 2)
    wanted = [want and (weight == "linear" or i not in (1, 2)) for i, want in enumerate(wanted)]
    factors = (inputs.down, inputs.up, inputs.ranks, inputs.gate)
    arguments = (dy, inputs.x, inputs.weight, *factors, wanted, "")
    torch.library.opcheck(torch.ops.weft.lowrank_linear_backward.default, arguments)


@each_form
def test_compiles_without_a_break(form):
    inputs = make_lowrank_inputs(FORMS[form])
    compiled = torch.compile(project, fullgraph=True, backend="aot_eager")
    found, expected = compiled(inputs), project(inputs)
    torch.testing.assert_close(found, expected)
    assert found.stride() == expected.stride()


@pytest.mark.parametrize(
    ("form", "compiler"), [*((form, "aot_eager") for form in FORMS), ("rows", "inductor"), ("image", "inductor")]
)
def test_compiles_backward_too(form, compiler):
    inputs = make_lowrank_inputs(FORMS[form])
    compiled = torch.compile(project, fullgraph=True, backend=compiler)

    def gradients(function) -> list[Tensor]:
        leaves = inputs.with_gradients()
        return list(torch.autograd.grad(function(leaves).square().sum(), list(leaves.tensors().values())))

    for found, expected in zip(gradients(compiled), gradients(project), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_new_gates_and_concepts_do_not_recompile():
    """Gates, masks and the concepts in their slots change between calls; the graph is the same."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(project, fullgraph=True, backend=counter)
    inputs = make_lowrank_inputs(replace(CASE, ranks=(8,) * 4))
    for rank, strength in ((8, 1.0), (3, 0.5), (5, 0.0), (1, -2.0)):
        other = make_lowrank_inputs(replace(CASE, ranks=(8,) * 4), seed=rank)
        # a concept of another rank moves into the second slot
        inputs.down[8:16] = 0
        inputs.down[8 : 8 + rank] = other.down[8 : 8 + rank]
        inputs.up[:, 8 + rank : 16] = 0
        inputs.gate.copy_(other.gate * strength)
        torch.testing.assert_close(compiled(inputs), project(inputs))
        fresh = replace(inputs, gate=inputs.gate.clone(), down=inputs.down.clone())
        torch.testing.assert_close(compiled(fresh), project(fresh))
    assert counter.frame_count == 1


def test_dynamic_shapes_compile_once():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(project, fullgraph=True, backend=counter, dynamic=True)
    for samples, grid in ((5, (3, 7)), (3, (5, 4)), (4, (2, 9))):
        inputs = make_lowrank_inputs(replace(CASE, samples=samples, grid=grid))
        torch.testing.assert_close(compiled(inputs), project(inputs))
    assert counter.frame_count == 1


def test_a_named_backend_in_compiled_code():
    inputs = make_lowrank_inputs(replace(CASE, dtype=torch.float64))
    compiled = torch.compile(project, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(inputs, "reference"), project(inputs))
    with pytest.raises(weft.BackendUnavailableError), weft.backend("cpu"):
        compiled(inputs)


def test_bad_input_is_refused_while_compiling():
    inputs = make_lowrank_inputs(CASE)
    compiled = torch.compile(project, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="to match x"):
        compiled(replace(inputs, weight=inputs.weight[:, 1:]))


@each_form
def test_fake_tensors_trace(form):
    inputs = make_lowrank_inputs(FORMS[form])
    expected = lowrank_linear(**inputs.arguments())
    with FakeTensorMode() as mode:
        found = lowrank_linear(**inputs.mapped(mode.from_tensor).arguments())
    assert found.shape == expected.shape and found.stride() == expected.stride() and found.dtype == expected.dtype


def test_export():
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj_out = torch.nn.Linear(40, 24)

        def forward(self, x: Tensor, down: Tensor, up: Tensor, gate: Tensor) -> Tensor:
            weight, bias = self.proj_out.weight, self.proj_out.bias
            return lowrank_linear(x, weight, bias, down=down, up=up, ranks=(4, 7, 2), gate=gate)

    inputs = make_lowrank_inputs(CASE)
    layer, arguments = Layer().requires_grad_(False), (inputs.x, inputs.down, inputs.up, inputs.gate)
    program = torch.export.export(layer, arguments)
    torch.testing.assert_close(program.module()(*arguments), layer(*arguments))


def test_direct_and_registered_calls_agree_bit_for_bit():
    inputs = make_lowrank_inputs(CASE)
    registered = torch.ops.weft.lowrank_linear.default(*operator_arguments(CASE, False))
    assert_bitwise("y", lowrank_linear(**inputs.arguments()), registered)


def test_checkpointing_recomputes_the_same():
    leaves = make_lowrank_inputs(CASE).with_gradients()

    def gradients(function) -> list[Tensor]:
        return list(torch.autograd.grad(function().square().sum(), list(leaves.tensors().values())))

    once = gradients(lambda: project(leaves))
    twice = gradients(lambda: checkpoint(project, leaves, use_reentrant=False))
    for name, a, b in zip(leaves.tensors(), once, twice, strict=True):
        assert_bitwise(name, a, b)
