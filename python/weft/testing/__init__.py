"""Oracles and input makers, shared by tests and benchmarks. Plain torch: nothing of the rest of weft is used here."""

from __future__ import annotations

from weft.testing.attention_eager import attention_eager
from weft.testing.attention_inputs import LAYOUTS, READOUTS, AttentionCase, AttentionInputs, make_attention_inputs
from weft.testing.oracles import (
    assert_as_accurate_as_eager,
    assert_bitwise,
    assert_unbiased,
    cosine,
    error_budget,
    relative_l2,
)
from weft.testing.regions_inputs import RegionSearch

__all__ = [
    "LAYOUTS",
    "READOUTS",
    "AttentionCase",
    "AttentionInputs",
    "RegionSearch",
    "assert_as_accurate_as_eager",
    "assert_bitwise",
    "assert_unbiased",
    "attention_eager",
    "cosine",
    "error_budget",
    "make_attention_inputs",
    "relative_l2",
]
