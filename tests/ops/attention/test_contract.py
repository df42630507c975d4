"""What ``attention`` promises beside numbers: form, empty sizes, determinism, no side effects, choice of backend."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import weft
from weft.ops import Edit, attention
from weft.ops.attention.op import ATTENTION
from weft.testing import LAYOUTS, AttentionCase, assert_bitwise, assert_differs, make_attention_inputs

TABLES = ("alpha", "beta", "gamma", "delta")
EDITED = AttentionCase(tables=TABLES, removed=0.1, readout="dense", padding=0.1)


@pytest.fixture
def three_threads() -> Iterator[None]:
    was = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(was)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_have_the_promised_form(call_attention, dtype, layout):
    inputs = make_attention_inputs(replace(EDITED, dtype=dtype, layout=layout, seqlen_q=9, columns=3))
    out, maps = call_attention(inputs)
    assert out.shape == inputs.q.shape and out.dtype == dtype and out.is_contiguous()
    assert maps.shape == (2, 9, 3) and maps.is_contiguous()
    assert maps.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_one_result_without_a_readout_and_two_with():
    inputs = make_attention_inputs(EDITED)
    alone = attention(inputs.q, inputs.k, inputs.v)
    assert isinstance(alone, torch.Tensor)
    both = attention(inputs.q, inputs.k, inputs.v, readout=inputs.readout)
    assert isinstance(both, tuple) and len(both) == 2


def test_scale_defaults_to_the_root_of_the_head_width(backend_name, device):
    inputs = make_attention_inputs(AttentionCase(), device=device)
    qkv = (inputs.q, inputs.k, inputs.v)
    given = attention(*qkv, scale=40**-0.5, backend=backend_name)
    assert_bitwise("out", attention(*qkv, backend=backend_name), given)


EMPTY = {
    "no sample": {"samples": 0},
    "no query": {"seqlen_q": 0},
    "no key": {"seqlen_k": 0},
    "no column": {"columns": 0},
    "no query and no key": {"seqlen_q": 0, "seqlen_k": 0},
}


@pytest.mark.parametrize("sizes", EMPTY.values(), ids=EMPTY.keys())
@pytest.mark.parametrize("tables", [(), TABLES], ids=["plain", "edited"])
@pytest.mark.parametrize("gradients", [False, True], ids=["forward", "backward"])
def test_empty_sizes(backend_name, device, call_attention, sizes, tables, gradients):
    case = replace(EDITED, tables=tables, shared=("tables",), **sizes)
    inputs = make_attention_inputs(case, device=device)
    if gradients:
        inputs = inputs.with_gradients()
    out, maps = call_attention(inputs, backend_name)
    assert out.shape == inputs.q.shape and maps.shape == (case.samples, case.seqlen_q, case.columns)
    if case.seqlen_k == 0:
        assert (out == 0).all() and (maps == 0).all()
    if gradients:
        found = torch.autograd.grad(out.sum() + maps.sum(), list(inputs.floats().values()), allow_unused=True)
        for gradient, x in zip(found, inputs.floats().values(), strict=True):
            assert gradient is None or (gradient.shape == x.shape and gradient.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seqlen_k", [77, 300])
def test_the_same_twice_in_a_row(backend_name, device, call_attention, dtype, seqlen_k):
    inputs = make_attention_inputs(replace(EDITED, dtype=dtype, seqlen_k=seqlen_k, seqlen_q=300), device=device)
    first = call_attention(inputs, backend_name)
    for _ in range(3):
        for name, found, expected in zip(("out", "maps"), call_attention(inputs, backend_name), first, strict=True):
            assert_bitwise(name, found, expected)


@pytest.mark.parametrize("seqlen_k", [77, 300])
def test_cpu_result_does_not_depend_on_threads(call_attention, three_threads, seqlen_k):
    inputs = make_attention_inputs(replace(EDITED, seqlen_k=seqlen_k, seqlen_q=500))
    if reasons := ATTENTION.explain(inputs.arguments())["cpu"]:
        pytest.skip("; ".join(reasons))
    several = call_attention(inputs, "cpu")
    torch.set_num_threads(1)
    for name, found, expected in zip(("out", "maps"), several, call_attention(inputs, "cpu"), strict=True):
        assert_bitwise(name, found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_changes_no_bit(backend_name, device, call_attention, layout):
    if layout == "expanded":
        inputs = make_attention_inputs(replace(EDITED, layout=layout), device=device)
        plain = inputs.mapped(lambda x: x.contiguous())
    else:
        inputs = make_attention_inputs(replace(EDITED, layout=layout), device=device)
        plain = make_attention_inputs(EDITED, device=device)
    expected = call_attention(plain, backend_name)
    for name, found, wanted in zip(("out", "maps"), call_attention(inputs, backend_name), expected, strict=True):
        if backend_name == "reference":
            # matrix products pick their kernel by layout
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        else:
            assert_bitwise(name, found, wanted)


def test_strides_of_tables_labels_and_readout_change_no_bit(backend_name, device, call_attention):
    """Each is every second entry of something wider."""

    def spread(x):
        wider = x.repeat_interleave(2, -1)
        wider[..., 1::2] = 0
        return wider[..., ::2]

    plain = make_attention_inputs(EDITED, device=device)
    strided = replace(plain.mapped(spread), q=plain.q, k=plain.k, v=plain.v)
    assert not strided.alpha.is_contiguous() and not strided.key_padding.is_contiguous()
    expected = call_attention(plain, backend_name)
    for name, found, wanted in zip(("out", "maps"), call_attention(strided, backend_name), expected, strict=True):
        assert_bitwise(name, found, wanted)


@pytest.mark.parametrize("shared", ["tables", "labels", "readout", "padding"])
def test_one_for_all_samples_equals_one_each(backend_name, device, call_attention, shared):
    inputs = make_attention_inputs(replace(EDITED, shared=(shared,), samples=3), device=device)
    names = {"tables": TABLES, "labels": ("query_labels", "key_labels"), "padding": ("key_padding",)}
    one_each = {
        name: (x := getattr(inputs, name)).expand(3, *x.shape[1:]).clone() for name in names.get(shared, (shared,))
    }
    expected = call_attention(replace(inputs, **one_each), backend_name)
    for name, found, wanted in zip(("out", "maps"), call_attention(inputs, backend_name), expected, strict=True):
        assert_bitwise(name, found, wanted)


def test_inputs_are_left_as_they_were(backend_name, device, call_attention):
    inputs = make_attention_inputs(EDITED, device=device)
    before = inputs.mapped(lambda x: x.clone())
    call_attention(inputs, backend_name)
    for name, x in before.floats().items():
        assert_bitwise(name, getattr(inputs, name), x)
    assert torch.equal(inputs.query_labels, before.query_labels)


def test_float64_goes_to_the_reference_by_itself(call_attention):
    inputs = make_attention_inputs(replace(EDITED, dtype=torch.float64))
    assert ATTENTION.choose("auto", inputs.arguments()).name == "reference"
    for found, expected in zip(call_attention(inputs), call_attention(inputs, "reference"), strict=True):
        assert torch.equal(found, expected)


def test_the_choice_reaches_the_call(monkeypatch, call_attention):
    """By argument, block and environment; the backend that runs is the one that was asked for."""
    ran = []

    def forward(*arguments):
        ran.append(True)
        return reference.forward(*arguments)

    reference = ATTENTION.backends[-1]
    watched = (*ATTENTION.backends[:-1], replace(reference, forward=forward))
    monkeypatch.setattr(sys.modules["weft.ops.attention.op"], "ATTENTION", replace(ATTENTION, backends=watched))
    inputs = make_attention_inputs(EDITED)
    call_attention(inputs, "reference")
    with weft.backend("reference"):
        call_attention(inputs)
        call_attention(inputs.with_gradients())
    monkeypatch.setenv("WEFT_BACKEND", "reference")
    call_attention(inputs)
    assert len(ran) == 4


def test_inference_mode_and_no_grad_give_the_same(backend_name, device, call_attention):
    leaves = make_attention_inputs(EDITED, device=device).with_gradients()
    with_graph = call_attention(leaves, backend_name)
    assert with_graph[0].requires_grad and with_graph[1].requires_grad
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            for name, found, wanted in zip(
                ("out", "maps"), call_attention(leaves, backend_name), with_graph, strict=True
            ):
                assert not found.requires_grad
                assert_bitwise(name, found, wanted.detach())


def test_tables_may_change_in_place_between_calls(backend_name, device, call_attention):
    """A control keeps its tables at a fixed address and writes into them."""
    inputs = make_attention_inputs(EDITED, device=device)
    edit = Edit(**inputs.tables())
    labels = {"query_labels": inputs.query_labels, "key_labels": inputs.key_labels}

    def call() -> torch.Tensor:
        return attention(inputs.q, inputs.k, inputs.v, edit=edit, **labels, backend=backend_name)

    before = call()
    inputs.alpha.mul_(0.5)
    inputs.query_labels.zero_()
    after = call()
    fresh = attention(inputs.q, inputs.k, inputs.v, edit=Edit(**inputs.tables()), **labels, backend=backend_name)
    assert_differs(before, after)
    assert_bitwise("out", after, fresh)


def test_meta_tensors_give_shapes(call_attention):
    inputs = make_attention_inputs(EDITED).mapped(lambda x: x.to("meta"))
    out = attention(inputs.q, inputs.k, inputs.v, readout=inputs.readout)
    assert [x.shape for x in out] == [(2, 64, 4, 40), (2, 64, 8)]
    assert all(x.device.type == "meta" for x in out)
