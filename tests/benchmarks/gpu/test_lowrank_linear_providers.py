"""Everybody who projects with concepts computes what the definition says, or what a note says instead."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import registry
from benchmarks.cases.lowrank_linear.case import GATES_OPEN
from benchmarks.cases.lowrank_linear.problem import WORK, GradientsOf
from benchmarks.reporting.tables import Table
from weft.ops import lowrank_linear

BENCHMARK = registry.load("lowrank_linear")
(TINY,) = registry.select("shape", BENCHMARK.shapes, ("tiny_out",))
each_mode = pytest.mark.parametrize("mode", BENCHMARK.modes, ids=lambda mode: mode.name)


@each_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_provider_of_a_cpu(mode, dtype):
    for provider in mode.providers_on("cpu"):
        if not provider.name.endswith("compiled"):
            problem = BENCHMARK.make_inputs(replace(TINY, kind="block"), dtype, mode, seed=5)
            call = provider.prepare(problem)
            for _ in range(2):
                BENCHMARK.verify(problem, provider, call())


def test_a_wrong_result_is_seen():
    (mode,) = registry.select("mode", BENCHMARK.modes, ("localized_image",))
    problem = BENCHMARK.make_inputs(TINY, torch.float32, mode)
    (weft, merged) = registry.select("provider", mode.providers, ("weft", "merged"))
    with pytest.raises(AssertionError, match="the result is off by"):
        BENCHMARK.verify(problem, weft, weft.prepare(problem)() * 1.01)
    assert merged.note == GATES_OPEN and merged.yardstick
    with pytest.raises(AssertionError, match="merged: the result is off by"):
        BENCHMARK.verify(problem, replace(merged, note=""), merged.prepare(problem)())


@pytest.mark.parametrize("name", ["weft", "peft", "addmm"])
def test_gradients_are_those_of_the_definition(name):
    (mode,) = registry.select("mode", BENCHMARK.modes, ("localized_training",))
    (provider,) = registry.select("provider", mode.providers, (name,))
    problem = BENCHMARK.make_inputs(TINY, torch.float32, mode)
    call = provider.prepare(problem)
    assert isinstance(call, GradientsOf)
    _, *found = call()
    leaves = problem.inputs.in_float64().with_gradients()
    y = lowrank_linear(**leaves.arguments(), backend="reference")
    gold = torch.autograd.grad(y, [leaves.x, leaves.down, leaves.up], call.arriving.double())
    for actual, expected in zip(found, gold, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)


def test_masks_give_a_row_to_one_concept_at_most():
    (mode,) = registry.select("mode", BENCHMARK.modes, ("localized",))
    (shape,) = registry.select("shape", BENCHMARK.shapes, ("sd15_out_16",))
    gate = BENCHMARK.make_inputs(shape, torch.float32, mode).inputs.gate
    owned = gate.sum(-1)
    assert set(owned.unique().tolist()) == {0.0, 1.0} and 0.4 < owned.mean() < 0.6


@pytest.mark.parametrize(
    ("shape", "mode", "megabytes", "gflop"),
    [
        ("sd15_out_64", "localized", 16.1, 1.68 + 0.67),
        ("sdxl_out_64", "localized", 32.5, 6.71 + 1.34),
        ("flux_out", "localized", 95.2, 77.31 + 3.22),
        ("sdxl_out_64", "lora", 22, 6.71 + 0.671),
    ],
)
def test_costs_are_those_of_the_physical_limits(shape, mode, megabytes, gflop):
    """Megabytes and GFLOP of the kernels' anchor tables."""
    (shape,) = registry.select("shape", BENCHMARK.shapes, (shape,))
    (mode,) = registry.select("mode", BENCHMARK.modes, (mode,))
    costs = BENCHMARK.costs(shape, torch.bfloat16, mode)
    assert costs.size_bytes / 1e6 == pytest.approx(megabytes, rel=0.03)
    assert costs.flops / 1e9 == pytest.approx(gflop, rel=0.01)


def test_the_floor_is_no_baseline():
    line = {"median_ms": 2.0, "ours": False, "note": "", "yardstick": False}
    lines = [
        {**line, "provider": "weft", "ours": True},
        {**line, "provider": "merged", "median_ms": 1.0, "yardstick": True},
        {**line, "provider": "addmm", "median_ms": 3.0},
    ]
    assert Table.of(lines).fastest["provider"] == "addmm" and Table.of(lines).ratio == 1.5


def test_every_mode_is_described():
    assert {mode.name for mode in BENCHMARK.modes} == set(WORK)
