"""Heads of q that share keys and values: the same as if these were written out for each of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops import attention
from weft.testing import AttentionCase, AttentionInputs, make_attention_inputs

TABLES = ("alpha", "beta", "gamma", "delta")
SMALL = AttentionCase(seqlen_q=9, seqlen_k=7, heads=6, group=3, head_dim=8)
EDITED = replace(SMALL, tables=TABLES, removed=0.1, readout="dense", columns=3, padding=0.1)


def written_out(inputs: AttentionInputs) -> AttentionInputs:
    group = inputs.q.shape[2] // inputs.k.shape[2]
    return replace(inputs, k=inputs.k.repeat_interleave(group, 2), v=inputs.v.repeat_interleave(group, 2))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("case", [SMALL, EDITED], ids=["plain", "edited"])
@pytest.mark.parametrize("group", [1, 2, 3, 6])
def test_a_shared_head_is_one_that_is_repeated(call_attention, case, group, backend):
    inputs = make_attention_inputs(replace(case, group=group))
    for found, expected in zip(
        call_attention(inputs, backend), call_attention(written_out(inputs), backend), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("group", [2, 6])
def test_as_torch_groups_heads(group):
    q, k, v = (x.transpose(1, 2) for x in draw(replace(SMALL, group=group)))
    expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    found = attention(*(x.transpose(1, 2) for x in (q, k, v)))
    torch.testing.assert_close(found.transpose(1, 2), expected, rtol=1e-5, atol=1e-6)


def draw(case: AttentionCase) -> tuple[Tensor, Tensor, Tensor]:
    inputs = make_attention_inputs(case)
    return inputs.q, inputs.k, inputs.v


def test_gradients_of_shared_heads_are_sums_over_their_readers(call_attention):
    inputs = make_attention_inputs(replace(EDITED, dtype=torch.float64)).with_gradients()
    out, maps = call_attention(inputs)
    found = torch.autograd.grad(out.square().sum() + maps.square().sum(), tuple(inputs.floats().values()))
    out, maps = call_attention(written_out(inputs))
    expected = torch.autograd.grad(out.square().sum() + maps.square().sum(), tuple(inputs.floats().values()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_gradcheck():
    q, k, v = (x.requires_grad_() for x in draw(replace(SMALL, samples=1, seqlen_q=3, dtype=torch.float64)))
    assert torch.autograd.gradcheck(attention, (q, k, v))
    assert torch.autograd.gradgradcheck(attention, (q, k, v))


def test_opcheck():
    inputs = make_attention_inputs(EDITED)
    torch.library.opcheck(torch.ops.weft.attention.default, (*inputs.with_gradients().arguments(), ""))
    out, maps = torch.ops.weft.attention.default(*inputs.arguments(), "")
    arriving = (torch.randn_like(out), torch.randn_like(maps))
    torch.library.opcheck(torch.ops.weft.attention_backward.default, (*arriving, *inputs.arguments(), True, True, ""))


def test_vmap():
    q, k, v = draw(SMALL)
    mapped = torch.func.vmap(lambda q, k, v: attention(q[None], k[None], v[None])[0])(q, k, v)
    torch.testing.assert_close(mapped, attention(q, k, v), rtol=1e-5, atol=1e-6)


def test_compiles_whole():
    q, k, v = draw(SMALL)
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(q, k, v), attention(q, k, v))
