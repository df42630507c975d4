"""What ``attention`` computes, on every backend: against float64, SDPA, and itself said another way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from torch import Tensor
from torch.nn import functional as F

from weft.kernels.attention.reference import attention_reference
from weft.ops.attention.op import ATTENTION
from weft.testing import (
    LAYOUTS,
    AttentionCase,
    AttentionInputs,
    assert_as_accurate_as_eager,
    assert_bitwise,
    attention_eager,
    make_attention_inputs,
)
from weft.testing.strategies import SEQLENS_K, SEQLENS_Q, attention_cases

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TABLES = ("alpha", "beta", "gamma", "delta")
EDITED = AttentionCase(tables=TABLES, removed=0.1, readout="dense", padding=0.1, hostile=True)


def assert_accurate(inputs: AttentionInputs, found: tuple[Tensor, Tensor]) -> None:
    truth = inputs.cleaned()
    gold = attention_reference(truth.in_float64().arguments())
    eager = attention_eager(truth)
    # both are means of values, which may cancel
    values = (truth.v, truth.v if truth.readout is None else truth.readout)
    for name, actual, e, g, value in zip(("out", "maps"), found, eager, gold, values, strict=True):
        size = value.abs().max().item() if value.numel() else 0.0
        assert_as_accurate_as_eager(name, actual, e, g, size=size)


# --- against float64 ------------------------------------------------------------------------------------------------


@given(case=attention_cases(dtypes=DTYPES, seqlens_q=(0, *SEQLENS_Q), seqlens_k=(0, *SEQLENS_K)))
def test_any_call_is_as_accurate_as_eager(backend_name, device, call_attention, case):
    inputs = make_attention_inputs(case, device=device)
    assume(not ATTENTION.explain(inputs.arguments())[backend_name])
    assert_accurate(inputs, call_attention(inputs, backend_name))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seqlens", [(333, 77), (130, 333)], ids=["short_keys", "long_keys"])
def test_layouts_of_real_models(backend_name, device, call_attention, dtype, layout, seqlens):
    case = replace(EDITED, seqlen_q=seqlens[0], seqlen_k=seqlens[1], dtype=dtype, layout=layout)
    inputs = make_attention_inputs(case, device=device)
    assert_accurate(inputs, call_attention(inputs, backend_name))


@pytest.mark.parametrize("head_dim", [8, 16, 40, 64, 72, 80, 96, 128, 160, 192, 255, 256])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_head_widths(backend_name, device, call_attention, head_dim, dtype):
    inputs = make_attention_inputs(
        replace(EDITED, seqlen_q=70, heads=2, head_dim=head_dim, dtype=dtype), device=device
    )
    assert_accurate(inputs, call_attention(inputs, backend_name))


@pytest.mark.parametrize("seqlen_k", [1, 7, 64, 77, 78, 81, 128, 129, 154, 300, 337, 512, 589, 593, 1025])
def test_key_lengths(backend_name, device, call_attention, seqlen_k):
    inputs = make_attention_inputs(replace(EDITED, seqlen_q=33, heads=2, seqlen_k=seqlen_k), device=device)
    assert_accurate(inputs, call_attention(inputs, backend_name))


@pytest.mark.parametrize("absent", TABLES)
@pytest.mark.parametrize("seqlen_k", [77, 300])
def test_each_table_may_be_absent(backend_name, device, call_attention, absent, seqlen_k):
    tables = tuple(name for name in TABLES if name != absent)
    inputs = make_attention_inputs(replace(EDITED, tables=tables, seqlen_k=seqlen_k), device=device)
    assert_accurate(inputs, call_attention(inputs, backend_name))


@pytest.mark.parametrize("seqlen_k", [77, 300])
def test_large_logits_do_not_overflow(backend_name, device, call_attention, seqlen_k):
    inputs = make_attention_inputs(replace(EDITED, seqlen_k=seqlen_k, spread=100.0), device=device)
    out, maps = call_attention(inputs, backend_name)
    assert out.isfinite().all() and maps.isfinite().all()
    gold, _ = attention_reference(inputs.in_float64().arguments())
    # logits of a few hundred carry an absolute error of about 1e-4, which is the relative one of P
    torch.testing.assert_close(out.double(), gold, rtol=0, atol=5e-3)


def test_negative_scale_and_zero_scale(backend_name, device, call_attention):
    inputs = make_attention_inputs(EDITED, device=device)
    for scale in (-0.3, 0.0):
        scaled = replace(inputs, scale=scale)
        assert_accurate(scaled, call_attention(scaled, backend_name))


def test_self_attention_with_four_labels_both_ways(backend_name, device, call_attention):
    case = replace(EDITED, seqlen_q=320, seqlen_k=320, layout="fused", key_labels=4, head_dim=80)
    inputs = make_attention_inputs(case, device=device)
    assert_accurate(inputs, call_attention(inputs, backend_name))


# --- against SDPA ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seqlen_k", [77, 300])
@pytest.mark.parametrize("scale", [None, 0.2])
def test_equals_sdpa_without_edit(backend_name, device, call_attention, dtype, seqlen_k, scale):
    inputs = make_attention_inputs(AttentionCase(dtype=dtype, seqlen_k=seqlen_k, padding=0.2), device=device)
    inputs = inputs if scale is None else replace(inputs, scale=scale)
    heads_first = [x.transpose(1, 2) for x in (inputs.q, inputs.k, inputs.v)]
    keep = ~inputs.key_padding[:, None, None]
    expected = F.scaled_dot_product_attention(*heads_first, attn_mask=keep, scale=inputs.scale).transpose(1, 2)
    tolerance = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    out, _ = call_attention(inputs, backend_name)
    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)


# --- the same thing said another way --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seqlen_k", [77, 300])
@pytest.mark.parametrize("names", [TABLES, ("alpha",), ("delta",), ("beta", "gamma")], ids="+".join)
def test_identity_tables_change_no_bit(backend_name, device, call_attention, dtype, seqlen_k, names):
    case = AttentionCase(dtype=dtype, seqlen_k=seqlen_k, readout="dense", padding=0.1, hostile=True)
    plain = make_attention_inputs(case, device=device)
    identities = {name: torch.full((1, 4, 5), float(name == "alpha"), device=device) for name in names}
    labels = make_attention_inputs(replace(case, tables=("alpha",), key_labels=5), device=device)
    edited = replace(plain, **identities, query_labels=labels.query_labels, key_labels=labels.key_labels)
    expected = call_attention(plain, backend_name)
    for name, found, wanted in zip(("out", "maps"), call_attention(edited, backend_name), expected, strict=True):
        assert_bitwise(name, found, wanted)


@pytest.mark.parametrize("seqlen_k", [77, 300])
def test_shift_lemma(backend_name, device, call_attention, seqlen_k):
    """Adding one vector to every key adds a row constant, which only alpha + beta + gamma constant lets pass."""
    inputs = make_attention_inputs(
        replace(EDITED, seqlen_k=seqlen_k, tables=("alpha", "beta", "gamma"), key_labels=5), device=device
    )
    shift = torch.randn(inputs.k.shape[-1], generator=torch.Generator().manual_seed(1)).to(device)
    balanced = replace(inputs, gamma=1.5 - inputs.alpha - inputs.beta)
    for case, same in ((balanced, True), (inputs, False)):
        out, _ = call_attention(case, backend_name)
        shifted, _ = call_attention(replace(case, k=case.k + shift), backend_name)
        assert torch.allclose(out, shifted, rtol=1e-4, atol=1e-4) is same


@pytest.mark.parametrize("seqlen_k", [20, 300])
def test_log_weight_equals_repeated_keys(backend_name, device, call_attention, seqlen_k):
    case = AttentionCase(seqlen_k=seqlen_k, query_labels=None, readout="dense")
    once = make_attention_inputs(case, device=device)
    copies = (torch.arange(seqlen_k) % 3 + 1).to(device)
    weighted = replace(
        once, delta=copies.log().float()[None, None], key_labels=torch.arange(seqlen_k, device=device)[None]
    )
    repeated = replace(
        once,
        k=once.k.repeat_interleave(copies, 1),
        v=once.v.repeat_interleave(copies, 1),
        readout=once.readout.repeat_interleave(copies, 1),
    )
    for found, expected in zip(
        call_attention(weighted, backend_name), call_attention(repeated, backend_name), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["delta", "padding"])
@pytest.mark.parametrize("seqlen_k", [77, 300])
def test_removed_keys_are_as_if_absent(backend_name, device, call_attention, how, seqlen_k):
    """Also for the row maximum and minimum: the removed keys are the ones with the largest and smallest logits."""
    case = replace(EDITED, samples=1, seqlen_k=seqlen_k, query_labels=1, removed=0.0, padding=0.0)
    inputs = make_attention_inputs(case, device=device)
    gone = torch.arange(seqlen_k, device=device) % 4 == 1
    k = inputs.k.clone()
    k[:, gone] *= 50
    inputs = replace(inputs, k=k)
    if how == "delta":
        removed = replace(inputs, delta=inputs.delta.masked_fill(gone, -torch.inf))
    else:
        removed = replace(inputs, key_padding=gone[None])
    kept = {name: getattr(inputs, name)[:, ~gone] for name in ("k", "v", "readout", "key_labels")}
    expected = call_attention(replace(inputs, **kept), backend_name)
    for found, wanted in zip(call_attention(removed, backend_name), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("poison", [torch.inf, -torch.inf, torch.nan], ids=["inf", "minus_inf", "nan"])
def test_padded_keys_may_hold_anything(backend_name, device, call_attention, poison):
    """Padding rows of a text encoder may be uninitialised; what they hold in K must not reach a valid key."""
    inputs = make_attention_inputs(replace(EDITED, padding=0.3, shared=("padding",)), device=device)
    k = inputs.k.clone()
    k[:, inputs.key_padding[0]] = poison
    for found, wanted in zip(
        call_attention(replace(inputs, k=k), backend_name), call_attention(inputs, backend_name), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seqlen_k", [77, 300])
@pytest.mark.parametrize("tables", [("delta",), TABLES], ids=["delta", "all"])
def test_rows_without_a_valid_key_are_zero(backend_name, device, call_attention, dtype, seqlen_k, tables):
    case = replace(EDITED, dtype=dtype, seqlen_k=seqlen_k, tables=tables, masked_label=True)
    inputs = make_attention_inputs(case, device=device)
    out, maps = call_attention(inputs, backend_name)
    empty = inputs.query_labels == 0
    assert empty.any() and not empty.all()
    assert (out[empty] == 0).all() and (maps[empty] == 0).all()
    assert out[~empty].abs().max() > 1e-2
    assert out.isfinite().all() and maps.isfinite().all()


@pytest.mark.parametrize("seqlen_k", [77, 300])
def test_all_keys_padded_gives_zeros(backend_name, device, call_attention, seqlen_k):
    # another padding shows what was padded before
    inputs = make_attention_inputs(replace(EDITED, seqlen_k=seqlen_k, hostile=False), device=device)
    padding = torch.zeros(2, seqlen_k, dtype=torch.bool, device=device)
    padding[1] = True
    out, maps = call_attention(replace(inputs, key_padding=padding), backend_name)
    assert (out[1] == 0).all() and (maps[1] == 0).all() and out[0].abs().max() > 1e-2


# --- read-outs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seqlen_k", [77, 300])
def test_readout_of_ones_reads_one(backend_name, device, call_attention, dtype, seqlen_k):
    inputs = make_attention_inputs(replace(EDITED, dtype=dtype, seqlen_k=seqlen_k, readout="ones"), device=device)
    _, maps = call_attention(inputs, backend_name)
    torch.testing.assert_close(maps, torch.ones_like(maps), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seqlen_k", [77, 300])
@pytest.mark.parametrize("tables", [(), TABLES], ids=["plain", "edited"])
@pytest.mark.parametrize("readout", ["one_hot", "dense", "zero"])
def test_readout_never_changes_out(backend_name, device, call_attention, dtype, seqlen_k, tables, readout):
    case = replace(EDITED, dtype=dtype, seqlen_k=seqlen_k, tables=tables, readout=readout)
    inputs = make_attention_inputs(case, device=device)
    with_maps, maps = call_attention(inputs, backend_name)
    without, _ = call_attention(replace(inputs, readout=None), backend_name)
    assert_bitwise("out", with_maps, without)
    assert readout != "zero" or (maps == 0).all()


def test_one_hot_columns_are_head_means(backend_name, device, call_attention):
    """The DAAM map: the eager probabilities of a token, averaged over heads."""
    inputs = make_attention_inputs(AttentionCase(readout="one_hot"), device=device)
    q, k = inputs.q.transpose(1, 2), inputs.k.transpose(1, 2)
    means = (q @ k.transpose(-1, -2) * inputs.scale).softmax(-1).mean(1)  # [B, Nq, Nk]
    keys = inputs.readout.argmax(1)[:, None].expand(-1, means.shape[1], -1)  # [B, Nq, M]
    _, maps = call_attention(inputs, backend_name)
    torch.testing.assert_close(maps, means.gather(2, keys), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("columns", [1, 2, 8, 9, 16, 31, 64, 77])
def test_any_number_of_columns(backend_name, device, call_attention, columns):
    inputs = make_attention_inputs(replace(EDITED, columns=columns), device=device)
    assert_accurate(inputs, call_attention(inputs, backend_name))


def test_maps_are_linear_in_the_readout(backend_name, device, call_attention):
    inputs = make_attention_inputs(EDITED, device=device)
    _, maps = call_attention(inputs, backend_name)
    _, twice = call_attention(replace(inputs, readout=2 * inputs.readout), backend_name)
    assert_bitwise("maps", twice, 2 * maps)
