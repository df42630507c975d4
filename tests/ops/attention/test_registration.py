"""``weft::attention`` as a registered operator: opcheck, torch.compile without graph breaks, few recompilations."""

from __future__ import annotations

import sys
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
from weft.ops import Edit, attention
from weft.testing import AttentionCase, AttentionInputs, assert_bitwise, assert_differs, make_attention_inputs

TABLES = ("alpha", "beta", "gamma", "delta")
SMALL = AttentionCase(seqlen_q=9, seqlen_k=7, heads=2, head_dim=8)
EDITED = replace(SMALL, tables=TABLES, removed=0.1, readout="dense", columns=3, padding=0.1)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    # graphs kept on disk outlive a change of an operator's schema
    with torch._inductor.config.patch(force_disable_caches=True):
        yield
    torch._dynamo.reset()


def permuted(inputs: AttentionInputs) -> AttentionInputs:
    """The same call with no tensor but q, k, v contiguous; those permuted as a host permutes them."""

    def transposed(x: Tensor) -> Tensor:
        if x.ndim == 4:
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)

    return inputs.mapped(transposed)


@pytest.mark.parametrize("arrange", [lambda x: x, permuted], ids=["contiguous", "permuted"])
@pytest.mark.parametrize("case", [SMALL, EDITED], ids=["plain", "edited"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_opcheck_forward(arrange, case, dtype):
    inputs = arrange(make_attention_inputs(replace(case, dtype=dtype))).with_gradients()
    torch.library.opcheck(torch.ops.weft.attention.default, (*inputs.arguments(), ""))


@pytest.mark.parametrize("arrange", [lambda x: x, permuted], ids=["contiguous", "permuted"])
@pytest.mark.parametrize("case", [SMALL, EDITED], ids=["plain", "edited"])
@pytest.mark.parametrize("wanted", [True, False], ids=["all_gradients", "qkv_only"])
def test_opcheck_backward(arrange, case, wanted):
    inputs = arrange(make_attention_inputs(case))
    out, maps = torch.ops.weft.attention.default(*inputs.arguments(), "")
    arriving = (torch.randn_like(out).transpose(1, 2).contiguous().transpose(1, 2), torch.randn_like(maps))
    torch.library.opcheck(
        torch.ops.weft.attention_backward.default, (*arriving, *inputs.arguments(), wanted, wanted, "")
    )


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_opcheck_of_a_named_backend(backend):
    inputs = make_attention_inputs(EDITED).with_gradients()
    torch.library.opcheck(torch.ops.weft.attention.default, (*inputs.arguments(), backend))


# --- torch.compile --------------------------------------------------------------------------------------------------


def attend_and_more(inputs: AttentionInputs, edit: Edit | None, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """The op between two others, as in a processor."""
    out, maps = attention(
        inputs.q * 1.5,
        inputs.k,
        inputs.v,
        edit=edit,
        readout=inputs.readout,
        query_labels=inputs.query_labels,
        key_labels=inputs.key_labels,
        key_padding=inputs.key_padding,
        backend=backend,
    )
    return out.flatten(2) * 2, maps.softmax(-1)


def edit_of(inputs: AttentionInputs) -> Edit | None:
    tables = inputs.tables()
    return Edit(**tables) if tables else None


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["contiguous", "fused", "head_major", "expanded"])
def test_compiles_without_a_break(layout):
    inputs = make_attention_inputs(replace(EDITED, layout=layout))
    compiled = torch.compile(attend_and_more, fullgraph=True, backend="aot_eager")
    assert_same(compiled(inputs, edit_of(inputs)), attend_and_more(inputs, edit_of(inputs)))


@pytest.mark.parametrize(
    ("compiler", "dtype"),
    [("inductor", torch.float32), ("aot_eager", torch.float32), ("aot_eager", torch.bfloat16)],
    ids=["inductor", "float32", "bfloat16"],
)
def test_compiles_backward_too(compiler, dtype):
    inputs = make_attention_inputs(replace(EDITED, dtype=dtype))
    compiled = torch.compile(attend_and_more, fullgraph=True, backend=compiler)

    def gradients(function) -> list[Tensor]:
        leaves = inputs.with_gradients()
        out, maps = function(leaves, edit_of(leaves))
        total = out.float().square().sum() + maps.square().sum()
        return list(torch.autograd.grad(total, list(leaves.floats().values())))

    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    for found, expected in zip(gradients(compiled), gradients(attend_and_more), strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_an_edit_may_be_made_inside():
    inputs = make_attention_inputs(EDITED)

    def inside(x: AttentionInputs) -> tuple[Tensor, Tensor]:
        return attend_and_more(x, Edit(**x.tables()))

    compiled = torch.compile(inside, fullgraph=True, backend="aot_eager")
    assert_same(compiled(inputs), inside(inputs))


def test_dynamic_shapes_compile_once():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(attend_and_more, fullgraph=True, backend=counter, dynamic=True)
    # the first call has no two axes of one size, which the compiler would take for one and the same axis
    for samples, seqlen_q, seqlen_k in ((5, 9, 7), (3, 33, 77), (4, 20, 130)):
        case = replace(EDITED, samples=samples, seqlen_q=seqlen_q, seqlen_k=seqlen_k)
        inputs = make_attention_inputs(case)
        assert_same(compiled(inputs, edit_of(inputs)), attend_and_more(inputs, edit_of(inputs)))
    assert counter.frame_count == 1


@pytest.mark.parametrize("edit_inside", [False, True])
def test_new_values_do_not_recompile(edit_inside):
    """Tables, labels, read-out and padding change at every step of a control; the graph is the same."""
    counter = CompileCounterWithBackend("aot_eager")

    def step(x: AttentionInputs, edit: Edit | None) -> tuple[Tensor, Tensor]:
        return attend_and_more(x, Edit(**x.tables()) if edit_inside else edit)

    compiled = torch.compile(step, fullgraph=True, backend=counter)
    seen = []
    for seed in range(4):
        inputs = make_attention_inputs(EDITED, seed)
        found = compiled(inputs, edit_of(inputs))
        assert_same(found, attend_and_more(inputs, edit_of(inputs)))
        seen.append(found[0])
    assert counter.frame_count == 1
    assert_differs(seen[0], seen[1])


def test_values_written_in_place_do_not_recompile():
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(attend_and_more, fullgraph=True, backend=counter)
    inputs = make_attention_inputs(EDITED)
    edit = edit_of(inputs)
    for _ in range(3):
        assert_same(compiled(inputs, edit), attend_and_more(inputs, edit))
        inputs.alpha.mul_(0.7)
        inputs.delta[:, 1] = -torch.inf
        inputs.query_labels.add_(1).remainder_(4)
    assert counter.frame_count == 1


# --- the choice of a backend in compiled code -----------------------------------------------------------------------


def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the backends that run from now on."""
    module = sys.modules["weft.ops.attention.op"]
    names: list[str] = []

    def watched(backend):
        def forward(*arguments):
            names.append(backend.name)
            return backend.forward(*arguments)

        return replace(backend, forward=forward)

    op = module.ATTENTION
    monkeypatch.setattr(module, "ATTENTION", replace(op, backends=tuple(watched(b) for b in op.backends)))
    return names


def test_a_block_around_compiled_code_is_asked_at_every_run(monkeypatch):
    names = ran(monkeypatch)
    inputs = make_attention_inputs(SMALL)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda q, k, v: attention(q, k, v) * 2, fullgraph=True, backend=counter)
    automatic = compiled(inputs.q, inputs.k, inputs.v)
    with weft.backend("reference"):
        named = compiled(inputs.q, inputs.k, inputs.v)
    assert names[-1] == "reference" and counter.frame_count == 1
    torch.testing.assert_close(automatic, named)
    with pytest.raises(weft.BackendUnavailableError), weft.backend("cuda"):
        compiled(inputs.q, inputs.k, inputs.v)


def test_a_block_inside_compiled_code_is_kept(monkeypatch):
    names = ran(monkeypatch)
    inputs = make_attention_inputs(SMALL)

    def nested(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with weft.backend("cpu"), weft.backend("reference"):
            first = attention(q, k, v)
        return attention(first, k, v)

    compiled = torch.compile(nested, fullgraph=True, backend="aot_eager")
    found = compiled(inputs.q, inputs.k, inputs.v)
    in_compiled = list(names)
    names.clear()
    torch.testing.assert_close(found, nested(inputs.q, inputs.k, inputs.v))
    assert in_compiled == names and names[0] == "reference"
    # the block left nothing behind
    with weft.backend("reference"):
        compiled(inputs.q, inputs.k, inputs.v)
    assert names[-1] == "reference"


def test_a_named_backend_in_compiled_code(monkeypatch):
    names = ran(monkeypatch)
    inputs = make_attention_inputs(replace(EDITED, readout="dense"))
    compiled = torch.compile(attend_and_more, fullgraph=True, backend="aot_eager")
    with weft.backend("auto"):
        compiled(inputs, edit_of(inputs), "reference")
    assert names == ["reference"]


def test_bad_input_is_refused_while_compiling():
    inputs = make_attention_inputs(SMALL)
    # with fullgraph torch 2.6 says only that it observed an exception
    compiled = torch.compile(lambda q, k: attention(q, k, k), backend="aot_eager")
    with pytest.raises(ValueError, match="to match q"):
        compiled(inputs.q, inputs.k[:1])


# --- the other ways in ----------------------------------------------------------------------------------------------


def test_fake_tensors_trace():
    inputs = make_attention_inputs(EDITED)
    with FakeTensorMode() as mode:
        fake = inputs.mapped(mode.from_tensor)
        out, maps = attention(fake.q, fake.k, fake.v, readout=fake.readout)
    assert out.shape == inputs.q.shape and maps.shape == (2, 9, 3)


def test_export():
    class Layer(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, readout: Tensor) -> tuple[Tensor, Tensor]:
            return attention(q, k, v, readout=readout)

    inputs = make_attention_inputs(EDITED)
    arguments = (inputs.q, inputs.k, inputs.v, inputs.readout)
    program = torch.export.export(Layer(), arguments)
    assert_same(program.module()(*arguments), Layer()(*arguments))


def test_direct_and_registered_calls_agree_bit_for_bit(call_attention):
    inputs = make_attention_inputs(EDITED)
    direct = call_attention(inputs)
    registered = torch.ops.weft.attention.default(*inputs.arguments(), "")
    for name, a, b in zip(("out", "maps"), direct, registered, strict=True):
        assert_bitwise(name, a, b)


def test_checkpointing_recomputes_the_same(call_attention):
    """Activation checkpointing runs the forward twice; the gradients must be those of running it once."""
    leaves = make_attention_inputs(EDITED).with_gradients()

    def gradients(function) -> list[Tensor]:
        out, maps = function()
        return list(torch.autograd.grad(out.sum() + maps.square().sum(), list(leaves.floats().values())))

    once = gradients(lambda: call_attention(leaves))
    twice = gradients(lambda: checkpoint(call_attention, leaves, use_reentrant=False))
    for a, b in zip(once, twice, strict=True):
        assert_bitwise("gradient", a, b)
