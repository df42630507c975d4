"""Everybody who is measured beside ``contrastive_loss`` and ``pairwise_error`` gives what the definition gives."""

from __future__ import annotations

import pytest
import torch

from benchmarks import registry
from benchmarks.cases.contrastive_loss.problem import WORK

LOSS = registry.load("contrastive_loss")
ERRORS = registry.load("pairwise_error")
TINY = {"pairs": "tiny_pairs", "views": "tiny_views"}
CASES = [
    *((LOSS, mode, TINY[mode.kinds[0]], provider) for mode in LOSS.modes for provider in mode.providers_on("cpu")),
    *((ERRORS, mode, "tiny", provider) for mode in ERRORS.modes for provider in mode.providers_on("cpu")),
]


@pytest.mark.parametrize(
    ("measured", "mode", "shape", "provider"),
    [
        # torch.compile writes and compiles C++ for these; the others show all that a provider must do
        pytest.param(*case, id=f"{case[1].name}-{name}", marks=pytest.mark.long if "compiled" in name else ())
        for case in CASES
        for name in [case[3].name]
    ],
)
def test_a_provider_gives_what_is_asked_for(measured, mode, shape, provider):
    torch.compiler.reset()
    (shape,) = registry.select("shape", measured.shapes, (shape,))
    problem = measured.make_inputs(shape, torch.float32, mode)
    result = provider.prepare(problem)()
    measured.verify(problem, provider, result)
    first, *rest = result if isinstance(result, tuple) else (result,)
    assert bool(rest) == mode.backward
    for wrong in ((first * 1.01, *rest), *([(first, rest[0] * 1.01, *rest[1:])] if rest else [])):
        with pytest.raises(AssertionError, match=f"{provider.name}: .* is off by"):
            measured.verify(problem, provider, wrong)


def test_every_mode_is_described():
    assert {mode.name for mode in LOSS.modes} == set(WORK)


def test_costs_are_those_of_the_products():
    (shape,) = registry.select("shape", LOSS.shapes, ("clip_16k",))
    (mode,) = registry.select("mode", LOSS.modes, ("clip",))
    costs = LOSS.costs(shape, torch.bfloat16, mode)
    # 8 N^2 D
    assert costs.flops == 8 * 16384**2 * 512
    assert costs.size_bytes == 4 * 16384 * 512 * 2
