"""The definition itself, restated: loops over single rows in Python floats, written from the equations alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from weft.kernels.attention.reference import attention_reference
from weft.testing import AttentionCase, AttentionInputs, attention_eager, make_attention_inputs
from weft.testing.strategies import attention_cases

SMALL = {"seqlens_q": (1, 2, 5), "seqlens_k": (1, 2, 5, 9), "head_dims": (1, 3, 8)}


def attention_by_rows(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """``out`` and ``maps`` of float64 inputs, one row of one head at a time."""
    samples, seqlen_q, heads, head_dim = inputs.q.shape
    seqlen_k, group = inputs.k.shape[1], heads // inputs.k.shape[2]
    columns = 0 if inputs.readout is None else inputs.readout.shape[2]
    out = torch.zeros(inputs.q.shape, dtype=torch.float64)
    maps = torch.zeros(samples, seqlen_q, columns, dtype=torch.float64)
    for b in range(samples):
        for i in range(seqlen_q):
            for h in range(heads):
                row = [inputs.scale * float(inputs.q[b, i, h] @ inputs.k[b, j, h // group]) for j in range(seqlen_k)]
                p = probabilities_of_row(inputs, b, i, row)
                for d in range(head_dim):
                    out[b, i, h, d] = sum(share * float(inputs.v[b, j, h // group, d]) for j, share in p.items())
                for m in range(columns):
                    maps[b, i, m] += sum(share * at(inputs.readout, b, j, m) for j, share in p.items()) / heads
    return out, maps


def probabilities_of_row(inputs: AttentionInputs, b: int, i: int, row: list[float]) -> dict[int, float]:
    """P of the valid keys of one row, by key."""
    r = 0 if inputs.query_labels is None else int(at(inputs.query_labels, b, i))
    labels = [0 if inputs.key_labels is None else int(at(inputs.key_labels, b, j)) for j in range(len(row))]

    def table(name: str, identity: float, j: int) -> float:
        values = getattr(inputs, name)
        return identity if values is None else at(values, b, r, labels[j])

    valid = [
        j
        for j in range(len(row))
        if table("delta", 0.0, j) != -math.inf
        and not (inputs.key_padding is not None and at(inputs.key_padding, b, j))
    ]
    if not valid:
        return {}
    largest, smallest = max(row[j] for j in valid), min(row[j] for j in valid)
    edited = {
        j: table("alpha", 1.0, j) * row[j]
        + table("beta", 0.0, j) * largest
        + table("gamma", 0.0, j) * smallest
        + table("delta", 0.0, j)
        for j in valid
    }
    peak = max(edited.values())
    total = sum(math.exp(value - peak) for value in edited.values())
    return {j: math.exp(value - peak) / total for j, value in edited.items()}


def at(tensor: Tensor | None, b: int, *place: int) -> float:
    """An element of a [B or 1, ...] tensor."""
    assert tensor is not None
    return tensor[(b if tensor.shape[0] > 1 else 0, *place)].item()


@given(case=attention_cases(dtypes=(torch.float64,), **SMALL))
@settings(max_examples=80)
def test_reference_is_the_definition(case: AttentionCase) -> None:
    inputs = make_attention_inputs(case)
    out, maps = attention_reference(inputs.arguments())
    out_by_rows, maps_by_rows = attention_by_rows(inputs)
    torch.testing.assert_close(out, out_by_rows, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(maps, maps_by_rows, rtol=1e-10, atol=1e-12)


@given(case=attention_cases(dtypes=(torch.float64,), **SMALL))
def test_eager_oracle_is_the_definition_too(case: AttentionCase) -> None:
    inputs = make_attention_inputs(case)
    for found, expected in zip(
        attention_eager(inputs.cleaned()), attention_reference(inputs.arguments()), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_reference_computes_in_float32_and_returns_the_dtype_of_q(dtype: torch.dtype) -> None:
    case = AttentionCase(dtype=dtype, tables=("alpha", "beta", "gamma", "delta"), readout="dense")
    inputs = make_attention_inputs(case)
    out, maps = attention_reference(inputs.arguments())
    wide = {name: getattr(inputs, name).float() for name in ("q", "k", "v")}
    wide_out, wide_maps = attention_reference(replace(inputs, **wide).arguments())
    assert torch.equal(out, wide_out.to(dtype))
    assert torch.equal(maps, wide_maps)
