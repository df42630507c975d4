"""Everybody who is timed computes what the definition says, as far as their note promises: tiny shapes, on a CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import registry
from benchmarks.cases.attention.baselines_fused import flex, sdpa_by
from benchmarks.cases.attention.case import LEFT_OUT, NO_RANGE
from benchmarks.cases.attention.problem import TABLES, WORK, GradientsOf
from benchmarks.gpu.plan import PLAN
from benchmarks.registry import Provider
from weft.kernels.attention.reference import attention_reference

ATTENTION = registry.load("attention")
TINY = [shape for shape in ATTENTION.shapes if shape.name.startswith("tiny")]
CASES = [
    pytest.param(shape, mode, id=f"{shape.name}-{mode.name}")
    for shape in TINY
    for mode in ATTENTION.modes
    if mode.applies(shape)
]


@pytest.mark.parametrize(("shape", "mode"), CASES)
def test_every_provider_of_a_cpu(shape, mode):
    for provider in mode.providers_on("cpu"):
        if not provider.name.endswith("compiled"):
            problem = ATTENTION.make_inputs(shape, torch.float32, mode, seed=5)
            call = provider.prepare(problem)
            for _ in range(2):
                ATTENTION.verify(problem, provider, call())


FORWARD = [case for case in CASES if not case.values[1].backward]


@pytest.mark.parametrize(("shape", "mode"), FORWARD)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_flex_leaves_out_the_range_and_nothing_else(shape, mode):
    problem = ATTENTION.make_inputs(shape, torch.float32, mode)
    provider = Provider("flex", flex(compile=False), note=NO_RANGE)
    result = provider.prepare(problem)()
    ATTENTION.verify(problem, provider, result)
    if problem.inputs.beta is not None:
        with pytest.raises(AssertionError, match="is off by"):
            ATTENTION.verify(problem, replace(provider, note=""), result)


@pytest.mark.parametrize("kernel", ["math", "flash"])
def test_sdpa_by_a_named_kernel(kernel):
    (plain,) = registry.select("mode", ATTENTION.modes, ("plain",))
    for shape in TINY:
        problem = ATTENTION.make_inputs(shape, torch.float32, plain)
        provider = Provider(kernel, sdpa_by(kernel))
        ATTENTION.verify(problem, provider, provider.prepare(problem)())


def test_a_kernel_that_cannot_is_not_replaced():
    (plain,) = registry.select("mode", ATTENTION.modes, ("plain",))
    problem = ATTENTION.make_inputs(TINY[0], torch.float32, plain)
    with pytest.raises(RuntimeError):
        sdpa_by("cudnn")(problem)()


def test_a_wrong_result_is_seen():
    (mode,) = registry.select("mode", ATTENTION.modes, ("edit_maps",))
    problem = ATTENTION.make_inputs(TINY[0], torch.float32, mode)
    (weft,) = registry.select("provider", mode.providers, ("weft",))
    out, maps = weft.prepare(problem)()
    ATTENTION.verify(problem, weft, (out, maps))
    with pytest.raises(AssertionError, match="`maps` is off by"):
        ATTENTION.verify(problem, weft, (out, maps * 1.01))


def test_gradients_alone_are_those_of_the_definition():
    (mode,) = registry.select("mode", ATTENTION.modes, ("edit_maps_gradients",))
    problem = ATTENTION.make_inputs(TINY[0], torch.float32, mode)
    for name in ("weft", "eager"):
        (provider,) = registry.select("provider", mode.providers, (name,))
        call = provider.prepare(problem)
        assert isinstance(call, GradientsOf) and not call.again
        first = call()
        # the forward ran once; its graph serves every further backward
        assert all(x is y for x, y in zip(call(), first, strict=True))
        leaves = problem.inputs.in_float64().with_gradients()
        gold = torch.autograd.grad(
            attention_reference(leaves.arguments()),
            [leaves.q, leaves.k, leaves.v],
            [x.double() for x in call.arriving],
        )
        found = torch.autograd.grad(first, call.leaves, call.arriving, retain_graph=True)
        for actual, expected in zip(found, gold, strict=True):
            torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_joint_read_out_names_text_alone():
    (mode,) = registry.select("mode", ATTENTION.modes, ("joint_maps",))
    (shape,) = registry.select("shape", ATTENTION.shapes, ("tiny_joint",))
    readout = ATTENTION.make_inputs(shape, torch.float32, mode).inputs.readout
    assert (readout[0, :16] == 0).all() and readout.sum() == readout.shape[2] == 8


def test_costs_are_those_of_the_physical_limits():
    """Megabytes and GFLOP of the kernels' anchor table."""
    for name, megabytes, gflop in (("sd15_64", 11.0, 0.81), ("sdxl_64", 21.7, 1.61), ("stress_d128", 208.3, 103.08)):
        (shape,) = registry.select("shape", ATTENTION.shapes, (name,))
        (mode,) = registry.select("mode", ATTENTION.modes, ("edit_maps",))
        costs = ATTENTION.costs(shape, torch.bfloat16, mode)
        assert costs.size_bytes / 1e6 == pytest.approx(megabytes, rel=0.01)
        assert costs.flops / 1e9 == pytest.approx(gflop, rel=0.01)


def test_sets_do_not_make_the_compiler_start_again():
    """Past a limit of versions it would run eager code and not say so."""
    from torch._dynamo.utils import counters

    (mode,) = registry.select("mode", ATTENTION.modes, ("edit_maps",))
    (provider,) = registry.select("provider", mode.providers, ("sdpa_padded_compiled",))
    torch.compiler.reset()
    counters.clear()
    for seed in range(12):
        provider.prepare(ATTENTION.make_inputs(TINY[0], torch.float32, mode, seed=seed))()
    assert counters["stats"]["unique_graphs"] == 1


def test_notes_name_tables():
    assert {name for left_out in LEFT_OUT.values() for name in left_out} <= set(TABLES)
    assert {mode.name for mode in ATTENTION.modes} == set(WORK)


def test_the_plan_names_what_there_is():
    for case in PLAN:
        benchmark = registry.load(case.op)
        shape, mode, providers = case.parts(benchmark)
        assert mode.applies(shape) and case.dtype in benchmark.dtypes
        assert [provider.name for provider in providers] == list(case.providers)
    assert len({str(case) for case in PLAN}) == len(PLAN)
