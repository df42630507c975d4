"""Gradients of ``attention``: against float64 autograd of the definition, finite differences, and by hand at ties."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from torch import Tensor

from weft.kernels.attention.reference import attention_reference
from weft.ops import Edit, attention
from weft.ops.attention.op import ATTENTION
from weft.testing import (
    LAYOUTS,
    AttentionCase,
    AttentionInputs,
    assert_as_accurate_as_eager,
    assert_bitwise,
    assert_unbiased,
    attention_eager,
    make_attention_inputs,
)
from weft.testing.strategies import attention_cases

TABLES = ("alpha", "beta", "gamma", "delta")
EDITED = AttentionCase(seqlen_q=40, tables=TABLES, removed=0.1, readout="dense", padding=0.1, hostile=True)


def draw_like(results: tuple[Tensor, Tensor], through: str) -> tuple[Tensor, Tensor]:
    """Gradients arriving at (out, maps), zero at the one not asked for."""
    generator = torch.Generator().manual_seed(7)
    drawn = [torch.randn(x.shape, generator=generator).to(x) for x in results]
    return (drawn[0] * (through != "maps"), drawn[1] * (through != "out"))


def gradients(inputs: AttentionInputs, results: tuple[Tensor, Tensor], arriving: tuple[Tensor, Tensor]):
    """The gradient of every float input, by name; zeros where none arrives."""
    leaves = inputs.floats()
    # a result without elements, or without a path to an input, has nothing to send back
    pairs = [(x, g.to(x.dtype)) for x, g in zip(results, arriving, strict=True) if x.requires_grad and x.numel()]
    found = torch.autograd.grad(
        [x for x, _ in pairs], list(leaves.values()), [g for _, g in pairs], allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))


def assert_gradients(call_attention, inputs: AttentionInputs, backend: str | None, through: str = "both") -> None:
    leaves, eager_leaves, gold_leaves = (
        inputs.with_gradients(),
        inputs.with_gradients(),
        inputs.in_float64().with_gradients(),
    )
    results = call_attention(leaves, backend)
    arriving = draw_like(results, through)
    found = gradients(leaves, results, arriving)
    eager = gradients(eager_leaves, attention_eager(eager_leaves.cleaned()), arriving)
    gold = gradients(gold_leaves, attention_reference(gold_leaves.cleaned().arguments()), arriving)
    # the terms of a gradient may cancel: the sum over keys of dS' is 0, and d beta is that times a logit
    keys = gold_leaves.cleaned().k.repeat_interleave(inputs.q.shape[2] // inputs.k.shape[2], 2)
    logits = torch.einsum("bqhd,bkhd->bhqk", gold_leaves.q, keys).detach() * inputs.scale
    size = max(x.abs().max().item() for x in gold.values()) * max(1.0, logits.abs().max().item())
    rows = inputs.q.shape[1] * inputs.q.shape[2]
    for name, gradient in found.items():
        assert gradient.shape == getattr(inputs, name).shape
        # a table entry sums over every row; what roundings leave of a zero grows with the root of their number
        terms = size * rows**0.5 if name in TABLES else size
        assert_as_accurate_as_eager(f"d{name}", gradient, eager[name], gold[name], 3.0, terms)
        assert_unbiased(f"d{name}", gradient, eager[name], gold[name], 3.0, terms)


# --- against float64 ------------------------------------------------------------------------------------------------


SMALL = {"seqlens_q": (1, 2, 17, 64), "seqlens_k": (1, 2, 7, 33, 77, 130), "head_dims": (2, 8, 16, 40, 123)}


@given(case=attention_cases(dtypes=(torch.float32, torch.bfloat16, torch.float16), **SMALL))
@settings(max_examples=40)
def test_any_gradient_is_as_accurate_as_eager(backend_name, device, call_attention, case):
    inputs = make_attention_inputs(case, device=device)
    assume(not ATTENTION.explain(inputs.arguments())[backend_name])
    assert_gradients(call_attention, inputs, backend_name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("through", ["out", "maps", "both"])
@pytest.mark.parametrize("seqlen_k", [77, 150])
def test_gradients_through_each_result(backend_name, device, call_attention, dtype, through, seqlen_k):
    inputs = make_attention_inputs(replace(EDITED, dtype=dtype, seqlen_k=seqlen_k), device=device)
    assert_gradients(call_attention, inputs, backend_name, through)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_strided_inputs(backend_name, device, call_attention, layout):
    inputs = make_attention_inputs(replace(EDITED, layout=layout), device=device)
    assert_gradients(call_attention, inputs, backend_name)


def test_gradients_over_several_blocks_of_rows(backend_name, device, call_attention):
    inputs = make_attention_inputs(replace(EDITED, seqlen_q=1100, heads=2, head_dim=16, readout="none"), device=device)
    assert_gradients(call_attention, inputs, backend_name)


def test_gradients_of_strided_tables_and_readout(backend_name, device, call_attention):
    """Expanded, transposed and sliced tables and read-outs; the gradient has the value of each element's own."""
    inputs = make_attention_inputs(replace(EDITED, shared=("tables", "readout")), device=device)
    strided = replace(
        inputs,
        alpha=inputs.alpha.expand(2, -1, -1),
        beta=inputs.beta.transpose(1, 2).contiguous().transpose(1, 2),
        gamma=torch.cat([inputs.gamma, inputs.gamma], 2)[..., : inputs.gamma.shape[2]],
        readout=inputs.readout.transpose(1, 2).contiguous().transpose(1, 2).expand(2, -1, -1),
    )
    assert_gradients(call_attention, strided, backend_name)


def test_expanded_and_strided_arriving_gradients(backend_name, device, call_attention):
    """``out.sum()`` sends an expanded gradient, a transposed use sends a strided one."""
    inputs = make_attention_inputs(EDITED, device=device)
    arriving = torch.randn(2, 4, 40, 40, device=device)

    def loss(x: AttentionInputs, transposed: bool) -> dict[str, Tensor]:
        leaves = x.with_gradients()
        out, maps = call_attention(leaves, backend_name)
        weighted = (out.transpose(1, 2) * arriving) if transposed else (out * arriving.transpose(1, 2).contiguous())
        total = weighted.sum() + maps.sum()
        return dict(zip(leaves.floats(), torch.autograd.grad(total, list(leaves.floats().values())), strict=True))

    strided, contiguous = loss(inputs, True), loss(inputs, False)
    for name, gradient in strided.items():
        assert_bitwise(f"d{name}", gradient, contiguous[name])


@pytest.mark.parametrize("wanted", ["q", "k", "v", "alpha", "beta", "gamma", "delta", "readout"])
def test_each_gradient_alone(backend_name, device, call_attention, wanted):
    """Asking for one gradient gives the same as asking for all, and nothing else gets one."""
    inputs = make_attention_inputs(EDITED, device=device)
    leaves = inputs.with_gradients()
    results = call_attention(leaves, backend_name)
    arriving = draw_like(results, "both")
    everything = gradients(leaves, results, arriving)
    alone = replace(inputs, **{wanted: getattr(inputs, wanted).detach().requires_grad_()})
    found = torch.autograd.grad(call_attention(alone, backend_name), [getattr(alone, wanted)], arriving)
    assert_bitwise(f"d{wanted}", found[0], everything[wanted])


def test_gradients_are_deterministic(backend_name, device, call_attention):
    inputs = make_attention_inputs(EDITED, device=device).with_gradients()

    def once() -> dict[str, Tensor]:
        results = call_attention(inputs, backend_name)
        return gradients(inputs, results, draw_like(results, "both"))

    first = once()
    for name, gradient in once().items():
        assert_bitwise(f"d{name}", gradient, first[name])


# --- finite differences ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tables", [(), ("delta",), TABLES], ids=["plain", "delta", "all"])
@pytest.mark.parametrize("readout", ["none", "dense"])
def test_finite_differences(call_attention, tables, readout):
    case = AttentionCase(
        seqlen_q=3, seqlen_k=5, heads=2, head_dim=3, dtype=torch.float64, tables=tables, query_labels=2, key_labels=3
    )
    inputs = make_attention_inputs(replace(case, readout=readout, columns=2, padding=0.2)).with_gradients()
    names = list(inputs.floats())

    def function(*values: Tensor):
        out, maps = call_attention(replace(inputs, **dict(zip(names, values, strict=True))))
        return (out, maps) if readout != "none" else out

    assert torch.autograd.gradcheck(function, tuple(inputs.floats().values()), eps=1e-6, atol=1e-7, rtol=1e-5)


# --- by hand --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["beta", "gamma"])
def test_a_tie_goes_to_the_first_key(backend_name, device, name):
    """Keys 1 and 3 share the extreme; the gradient through the row statistic reaches key 1 alone."""
    extreme = 2.0 if name == "beta" else -2.0
    logits = torch.tensor([0.5, extreme, 0.1, extreme, -0.2], device=device)
    q = torch.ones(1, 1, 1, 1, device=device)
    k = logits.view(1, 5, 1, 1).requires_grad_()
    v = torch.tensor([1.0, 2.0, -1.0, 0.5, 3.0], device=device).view(1, 5, 1, 1)
    table = torch.tensor([[[0.3, -0.2, 0.7, 0.1, 0.4]]], device=device)
    edit = Edit(alpha=torch.zeros_like(table), **{name: table})
    labels = torch.arange(5, device=device)[None]
    out = attention(q, k, v, scale=1.0, edit=edit, key_labels=labels, backend=backend_name)
    (dk,) = torch.autograd.grad(out.sum(), [k])
    # alpha is 0, so dk is the statistic's part alone: sum_j table_j * P_j * (v_j - out)
    p = (table.flatten() * extreme).softmax(0)
    expected = torch.zeros(5, device=device)
    expected[1] = (table.flatten() * p * (v.flatten() - p @ v.flatten())).sum()
    torch.testing.assert_close(dk.flatten(), expected, rtol=1e-5, atol=1e-7)


def test_a_tie_passes_over_removed_keys(backend_name, device):
    """The first largest key is padding, the second removed by delta: the third is the first valid one."""
    k = torch.tensor([3.0, 3.0, 3.0, 3.0, 0.0], device=device).view(1, 5, 1, 1).requires_grad_()
    v = torch.arange(5.0, device=device).view(1, 5, 1, 1)
    beta = torch.tensor([[[0.5, 0.5, 0.2, 0.9, 0.4]]], device=device)
    delta = torch.tensor([[[0.0, -torch.inf, 0.0, 0.0, 0.0]]], device=device)
    edit = Edit(alpha=torch.zeros_like(beta), beta=beta, delta=delta)
    padding = torch.tensor([[True, False, False, False, False]], device=device)
    labels = torch.arange(5, device=device)[None]
    q = torch.ones(1, 1, 1, 1, device=device)
    out = attention(q, k, v, scale=1.0, edit=edit, key_labels=labels, key_padding=padding, backend=backend_name)
    (dk,) = torch.autograd.grad(out.sum(), [k])
    assert dk.flatten()[2].abs() > 1e-3
    assert (dk.flatten()[[0, 1, 3, 4]] == 0).all()


def test_rows_without_a_valid_key_send_no_gradient(backend_name, device, call_attention):
    inputs = make_attention_inputs(replace(EDITED, masked_label=True), device=device).with_gradients()
    results = call_attention(inputs, backend_name)
    found = gradients(inputs, results, draw_like(results, "both"))
    assert all(gradient.isfinite().all() for gradient in found.values())
    empty = inputs.query_labels == 0
    assert (found["q"][empty] == 0).all() and found["q"][~empty].abs().max() > 1e-3
    for table in TABLES:
        assert (found[table][:, 0] == 0).all(), table


def test_removed_entries_of_delta_get_no_gradient(backend_name, device, call_attention):
    inputs = make_attention_inputs(replace(EDITED, removed=0.4), device=device).with_gradients()
    results = call_attention(inputs, backend_name)
    found = gradients(inputs, results, draw_like(results, "both"))["delta"]
    assert (found[inputs.delta.isneginf()] == 0).all() and found.isfinite().all()
