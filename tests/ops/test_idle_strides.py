"""Strides that are never walked, of axes with one entry and of empty tensors, may be anything."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weft.ops import Edit, attention, lowrank_linear
from weft.testing import AttentionCase, AttentionInputs, LowrankCase, make_attention_inputs, make_lowrank_inputs
from weft.testing.lowrank_linear_inputs import ADDENDS, GATES, WEIGHTS
from weft.testing.strides import with_idle_strides

BACKENDS = ("cpu", "reference")
# among them one that no product with a size may touch
STRIDES = (0, 2, 7, 1 << 58)


@given(
    case=st.builds(
        LowrankCase,
        samples=st.integers(0, 2),
        grid=st.sampled_from(((0, 3), (1, 1), (1, 5), (2, 2))),
        width_in=st.sampled_from((1, 8)),
        width_out=st.sampled_from((1, 4)),
        ranks=st.sampled_from(((), (1,), (2, 1))),
        weight=st.sampled_from(WEIGHTS),
        gate=st.sampled_from(GATES),
        residual=st.sampled_from(ADDENDS),
    ),
    backend=st.sampled_from(BACKENDS),
    stride=st.sampled_from(STRIDES),
)
@settings(max_examples=150)
def test_lowrank_linear(case: LowrankCase, backend: str, stride: int) -> None:
    inputs = make_lowrank_inputs(case)
    idle = inputs.mapped(lambda x: with_idle_strides(x, stride))
    expected = lowrank_linear(**inputs.arguments(), backend=backend)
    torch.testing.assert_close(lowrank_linear(**idle.arguments(), backend=backend), expected)


@given(
    case=st.builds(
        AttentionCase,
        # an edit has a batch of one at least, so no tables without samples
        samples=st.integers(1, 2),
        seqlen_q=st.sampled_from((0, 1, 3)),
        seqlen_k=st.sampled_from((0, 1, 3)),
        heads=st.integers(1, 2),
        head_dim=st.sampled_from((1, 8)),
        tables=st.just(("alpha", "delta")),
        query_labels=st.integers(1, 2),
        key_labels=st.integers(1, 2),
        readout=st.sampled_from(("none", "dense")),
        columns=st.integers(1, 2),
        padding=st.sampled_from((0.0, 0.5)),
    ),
    backend=st.sampled_from(BACKENDS),
    stride=st.sampled_from(STRIDES),
)
@settings(max_examples=150)
def test_attention(case: AttentionCase, backend: str, stride: int) -> None:
    inputs = make_attention_inputs(case)
    tensors = {f.name: getattr(inputs, f.name) for f in fields(inputs) if isinstance(getattr(inputs, f.name), Tensor)}
    idle = replace(inputs, **{name: with_idle_strides(x, stride) for name, x in tensors.items()})
    torch.testing.assert_close(attend(idle, backend), attend(inputs, backend))


def attend(inputs: AttentionInputs, backend: str) -> Tensor | tuple[Tensor, Tensor]:
    q, k, v, scale, alpha, _, _, delta, readout, query_labels, key_labels, key_padding = inputs.arguments()
    return attention(
        q,
        k,
        v,
        scale=scale,
        edit=Edit(alpha=alpha, delta=delta),
        readout=readout,
        query_labels=query_labels,
        key_labels=key_labels,
        key_padding=key_padding,
        backend=backend,
    )


@pytest.mark.parametrize("backend", [*BACKENDS, None])
@pytest.mark.parametrize("shape", [(0, 3, 2, 16), (2, 0, 2, 16)])
def test_attention_to_nothing_cut_from_wider_rows(shape: tuple[int, ...], backend: str | None) -> None:
    x = torch.randn(shape)[..., ::2]
    assert attention(x, x, x, backend=backend).shape == x.shape


@pytest.mark.parametrize("backend", [*BACKENDS, None])
@pytest.mark.parametrize("shape", [(0, 5, 16), (2, 0, 16)])
def test_a_layer_on_nothing_cut_from_wider_rows(shape: tuple[int, ...], backend: str | None) -> None:
    x, weight = torch.randn(shape)[..., ::2], torch.randn(4, 8)
    assert lowrank_linear(x, weight, backend=backend).shape == (*shape[:2], 4)
