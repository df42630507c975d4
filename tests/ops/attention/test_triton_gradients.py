"""The Triton backward of ``attention`` at shapes the interpreter can do: every input, both results, every path."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

from weft.kernels.attention.bwd import attention_bwd
from weft.kernels.attention.fwd import attention_fwd
from weft.kernels.attention.host import Call
from weft.kernels.attention.reference import attention_reference
from weft.kernels.common import grids
from weft.ops import attention
from weft.ops.attention.op import ATTENTION
from weft.testing import (
    AttentionCase,
    AttentionInputs,
    assert_as_accurate_as_eager,
    assert_bitwise,
    assert_unbiased,
    attention_eager,
    make_attention_inputs,
    poison_for_some_rows,
)
from weft.testing.strategies import attention_cases

TABLES = ("alpha", "beta", "gamma", "delta")
EDITED = AttentionCase(
    samples=1,
    seqlen_q=19,
    seqlen_k=37,
    heads=2,
    head_dim=24,
    tables=TABLES,
    key_labels=5,
    removed=0.1,
    readout="dense",
    padding=0.1,
    hostile=True,
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def drawn(case: AttentionCase, seed: int = 0) -> AttentionInputs:
    """Inputs below the public function: labels are int32 there."""
    inputs = make_attention_inputs(case, seed, DEVICE)
    as_int32 = {
        name: labels.int() for name in ("query_labels", "key_labels") if (labels := getattr(inputs, name)) is not None
    }
    return replace(inputs, **as_int32)


def arriving(inputs: AttentionInputs, through: str = "both") -> tuple[Tensor, Tensor]:
    """Gradients at (out, maps), zero at the one not asked for."""
    generator = torch.Generator().manual_seed(7)
    columns = 0 if inputs.readout is None else inputs.readout.shape[2]
    dout = torch.randn(inputs.q.shape, generator=generator).to(inputs.q)
    dmaps = torch.randn((*inputs.q.shape[:2], columns), generator=generator).to(DEVICE)
    return dout * (through != "maps"), dmaps * (through != "out")


def backward(inputs: AttentionInputs, at: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """The kernels' gradient of every float input, by name."""
    call = Call(inputs.arguments())
    found = attention_bwd(call, *at, attention_fwd(call, keep_rows=True), True, True)
    return {name: getattr(found, f"d{name}") for name in inputs.floats()}


def by_autograd(inputs: AttentionInputs, function, at: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    leaves = inputs.with_gradients()
    results = function(leaves)
    pairs = [(x, g.to(x.dtype)) for x, g in zip(results, at, strict=True) if x.requires_grad and x.numel()]
    xs, gs = zip(*pairs, strict=True)
    found = torch.autograd.grad(xs, list(leaves.floats().values()), gs, allow_unused=True, materialize_grads=True)
    return dict(zip(leaves.floats(), found, strict=True))


def assert_gradients(inputs: AttentionInputs, through: str = "both") -> dict[str, Tensor]:
    at = arriving(inputs, through)
    found = backward(inputs, at)
    eager = by_autograd(inputs, lambda x: attention_eager(x.cleaned()), at)
    gold = by_autograd(inputs.in_float64(), lambda x: attention_reference(x.cleaned().arguments()), at)
    for name, gradient in found.items():
        if gold[name].numel() and gold[name].abs().max() < 1e-12:
            # a sum that is zero for every input, as with one label for all keys, has no size to measure rounding by
            assert gradient.abs().max() < (1e-5 if gradient.dtype == torch.float32 else 1e-2), name
            continue
        # eager's largest error over the few elements of a table is an uncertain measure of its accuracy
        factor = 10.0 if name in TABLES else 4.0
        # of a few queries' sums eager may be right by luck; logits in base 2 are not
        size = gold[name].abs().max().item()
        assert_as_accurate_as_eager(f"d{name}", gradient, eager[name], gold[name], factor=factor, size=size)
        assert_unbiased(f"d{name}", gradient, eager[name], gold[name], factor=factor)
    return found


# --- absent keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("k",), ("v",), ("readout",)], ids="+".join)
@pytest.mark.parametrize("head_dim", [24, 80])
def test_gradients_of_rows_that_do_not_see_a_nan(names, head_dim):
    # each half of the rows has keys of its own
    case = replace(EDITED, head_dim=head_dim, query_labels=2, key_labels="own", removed=0.5, padding=0.0)
    inputs = drawn(case)
    poisoned, seeing = poison_for_some_rows(inputs, names)
    # keys that are valid for a row that is spoilt may be spoilt by it
    touched = (inputs.valid() & seeing[..., None]).any(1)
    assert not touched.all() and not seeing.all()
    at = tuple(x.masked_fill(seeing.reshape(*seeing.shape, *[1] * (x.ndim - 2)), 0.0) for x in arriving(inputs))
    found, expected = backward(poisoned, at), backward(inputs, at)
    for name, where in (("q", ~seeing), ("k", ~touched), ("v", ~touched), ("readout", ~touched)):
        torch.testing.assert_close(found[name][where], expected[name][where], rtol=1e-4, atol=1e-5, msg=f"d{name}")


@pytest.mark.parametrize("arrives", [1.0, torch.nan], ids=["finite", "nan"])
def test_padding_has_a_gradient_of_zero(arrives):
    inputs = drawn(replace(EDITED, padding=0.3))
    at = tuple(x * arrives for x in arriving(inputs))
    for name in ("k", "v", "readout"):
        assert not backward(inputs, at)[name][inputs.key_padding].any()


# --- against float64 ------------------------------------------------------------------------------------------------


@given(
    case=attention_cases(
        dtypes=(torch.float32, torch.float16),
        seqlens_q=(1, 7, 17),
        seqlens_k=(1, 7, 17, 33),
        head_dims=(2, 8, 16, 24, 40),
        most_heads=2,
    ).map(lambda case: replace(case, samples=min(case.samples, 2), spread=1.0)),
    seed=st.integers(0, 99),
)
@settings(max_examples=10)
def test_any_gradient_is_as_accurate_as_eager(case, seed):
    assert_gradients(drawn(case, seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("through", ["out", "maps", "both"])
def test_gradients_through_each_result(dtype, through):
    found = assert_gradients(drawn(replace(EDITED, dtype=dtype)), through)
    assert (found["v"] == 0).all() if through == "maps" else found["v"].abs().max() > 1e-3


@pytest.mark.parametrize("head_dim", [8, 40, 72, 80, 88, 96, 112, 160, 256])
def test_gradients_of_head_widths(head_dim):
    assert_gradients(drawn(replace(EDITED, heads=1, head_dim=head_dim, seqlen_q=7, seqlen_k=17)))


@pytest.mark.parametrize("seqlen_q", [7, 300], ids=["one_part", "several_parts"])
def test_gradients_of_heads_that_share_keys(seqlen_q):
    assert_gradients(drawn(replace(EDITED, heads=6, group=3, head_dim=8, seqlen_q=seqlen_q, seqlen_k=17)))


@pytest.mark.parametrize("labels", [(None, 5), (4, None), (None, None), (20, 3), (3, 20)], ids=str)
def test_gradients_of_tables_by_every_kind_of_label(labels):
    """One label, fewer and more than one block of the tables kernel, and more than are read one by one."""
    assert_gradients(drawn(replace(EDITED, query_labels=labels[0], key_labels=labels[1])))


def test_gradients_of_tables_shared_by_a_batch():
    assert_gradients(drawn(replace(EDITED, samples=2, heads=1, seqlen_q=7, shared=("tables", "readout", "labels"))))


def test_gradients_with_long_keys():
    assert_gradients(drawn(replace(EDITED, heads=1, seqlen_q=9, seqlen_k=140, head_dim=16)))


def test_one_part_and_many_parts_of_a_sum_agree(monkeypatch):
    """Few programs cut the sums over queries; many do them whole, and round dk and dv where they are made."""
    inputs = drawn(replace(EDITED, seqlen_q=40))
    at = arriving(inputs)
    cut = backward(inputs, at)
    monkeypatch.setattr(grids, "MIN_PROGRAMS", 1)
    for name, whole in backward(inputs, at).items():
        torch.testing.assert_close(cut[name], whole, rtol=1e-5, atol=1e-5, msg=f"d{name} differs")


# --- what the contract promises -------------------------------------------------------------------------------------


def test_twice_the_same_bits():
    inputs = drawn(EDITED)
    at = arriving(inputs)
    first = backward(inputs, at)
    for name, gradient in backward(inputs, at).items():
        assert_bitwise(f"d{name}", gradient, first[name])


def test_rows_without_a_valid_key_send_no_gradient():
    inputs = drawn(replace(EDITED, masked_label=True))
    found = assert_gradients(inputs)
    empty = inputs.query_labels == 0
    assert empty.any() and (found["q"][empty] == 0).all() and found["q"][~empty].abs().max() > 1e-3
    assert all((found[table][:, 0] == 0).all() for table in TABLES)


@pytest.mark.parametrize("seqlen_k", [5, 140])
@pytest.mark.parametrize("name", ["beta", "gamma"])
def test_a_tie_goes_to_the_first_valid_key(name, seqlen_k):
    """Keys 0, 1, 3 and the last share the extreme, key 0 is padding: the gradient reaches key 1 alone."""
    logits = torch.linspace(-0.4, 0.4, seqlen_k)
    logits[[0, 1, 3, -1]] = 2.0 if name == "beta" else -2.0
    k = logits.view(1, seqlen_k, 1, 1).to(DEVICE)
    v = torch.linspace(-1, 2, seqlen_k).view(1, seqlen_k, 1, 1).to(DEVICE)
    labels = (torch.arange(seqlen_k, dtype=torch.int32) % 3)[None].to(DEVICE)
    table = torch.tensor([[[0.3, -0.2, 0.7]]], device=DEVICE)
    padding = (torch.arange(seqlen_k) == 0)[None].to(DEVICE)
    inputs = AttentionInputs(
        *(torch.ones(1, 1, 1, 1, device=DEVICE), k, v, 1.0),
        **{"alpha": torch.zeros_like(table), name: table},
        key_labels=labels,
        key_padding=padding,
    )
    dk = backward(inputs, (torch.ones(1, 1, 1, 1, device=DEVICE), torch.zeros(1, 1, 0, device=DEVICE)))["k"].flatten()
    assert dk[1].abs() > 2e-5  # the least of the four is 5.7e-5
    assert (dk[[i for i in range(seqlen_k) if i != 1]] == 0).all()


@pytest.mark.parametrize("empty", ["samples", "seqlen_q", "seqlen_k"])
def test_zero_sizes(empty):
    inputs = drawn(replace(EDITED, tables=(), **{empty: 0}))
    for name, gradient in backward(inputs, arriving(inputs)).items():
        assert gradient.shape == getattr(inputs, name).shape and (gradient == 0).all(), name


# --- through the operator -------------------------------------------------------------------------------------------


def test_expanded_and_strided_gradients_arrive():
    inputs = drawn(replace(EDITED, tables=(), head_dim=16, hostile=False)).with_gradients()
    out, maps = attention(inputs.q, inputs.k, inputs.v, readout=inputs.readout, backend="triton")
    (out.transpose(1, 2).sum() + maps.transpose(1, 2).sum()).backward()
    reference = inputs.with_gradients()
    out, maps = attention(reference.q, reference.k, reference.v, readout=reference.readout, backend="reference")
    (out.sum() + maps.sum()).backward()
    for name, x in inputs.floats().items():
        torch.testing.assert_close(x.grad, getattr(reference, name).grad, rtol=1e-4, atol=1e-5)


def test_backward_follows_forward_out_of_its_block(monkeypatch):
    """The backend of a ``weft.backend`` block serves the backward that runs after the block."""
    import weft

    inputs = drawn(replace(EDITED, tables=(), readout="none")).with_gradients()
    with weft.backend("triton"):
        out = attention(inputs.q, inputs.k, inputs.v)
    asked = []
    choose = type(ATTENTION).choose_backward
    monkeypatch.setattr(
        type(ATTENTION), "choose_backward", lambda op, name, *rest: asked.append(name) or choose(op, name, *rest)
    )
    out.sum().backward()
    assert asked == ["triton"]


def test_a_backend_without_backward_leaves_it_to_the_next():
    arguments = drawn(EDITED).arguments()
    assert ATTENTION.choose_backward("triton", arguments).name == "triton"
    assert ATTENTION.choose_backward("reference", arguments).name == "reference"
    expected = "triton" if DEVICE == "cuda" else "reference"
    assert {ATTENTION.choose_backward(name, arguments).name for name in ("cpu", "auto")} == {expected}
