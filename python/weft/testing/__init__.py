"""Oracles and input makers, shared by tests and benchmarks. Plain torch: nothing of the rest of weft is used here."""

from __future__ import annotations

from weft.testing.attention_eager import attention_eager
from weft.testing.attention_inputs import (
    LAYOUTS,
    READOUTS,
    AttentionCase,
    AttentionInputs,
    make_attention_inputs,
    poison_for_some_rows,
)
from weft.testing.contrastive_loss_inputs import (
    FEATURE_LAYOUTS,
    FEATURES,
    PAIR_EXCLUSIONS,
    PAIRS,
    ContrastiveCase,
    ContrastiveInputs,
    contrastive_loss_eager,
    make_contrastive_inputs,
)
from weft.testing.lowrank_linear_gradients import (
    arriving_gradient,
    assert_gradients_as_accurate_as_eager,
    lowrank_gradients,
)
from weft.testing.lowrank_linear_inputs import (
    ADDENDS,
    GATES,
    WEIGHTS,
    X_LAYOUTS,
    LowrankCase,
    LowrankInputs,
    lowrank_linear_eager,
    make_lowrank_inputs,
)
from weft.testing.oracles import (
    assert_as_accurate_as_eager,
    assert_bitwise,
    assert_differs,
    assert_unbiased,
    cosine,
    error_budget,
    relative_l2,
)
from weft.testing.pairwise_error_inputs import PAIR_LAYOUTS, make_pairs, pairwise_error_eager
from weft.testing.regions_inputs import GateCase, RegionSearch

__all__ = [
    "ADDENDS",
    "FEATURES",
    "FEATURE_LAYOUTS",
    "GATES",
    "LAYOUTS",
    "PAIRS",
    "PAIR_EXCLUSIONS",
    "PAIR_LAYOUTS",
    "READOUTS",
    "WEIGHTS",
    "X_LAYOUTS",
    "AttentionCase",
    "AttentionInputs",
    "ContrastiveCase",
    "ContrastiveInputs",
    "GateCase",
    "LowrankCase",
    "LowrankInputs",
    "RegionSearch",
    "arriving_gradient",
    "assert_as_accurate_as_eager",
    "assert_bitwise",
    "assert_differs",
    "assert_gradients_as_accurate_as_eager",
    "assert_unbiased",
    "attention_eager",
    "contrastive_loss_eager",
    "cosine",
    "error_budget",
    "lowrank_gradients",
    "lowrank_linear_eager",
    "make_attention_inputs",
    "make_contrastive_inputs",
    "make_lowrank_inputs",
    "make_pairs",
    "pairwise_error_eager",
    "poison_for_some_rows",
    "relative_l2",
]
