"""One case as it is measured on a GPU, on a CPU with a clock set by hand: lines, refusals, time that runs out."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module

import pytest
import torch

from benchmarks import registry
from benchmarks.gpu import device, measure, plan, summary
from benchmarks.gpu.ceilings import Ceilings
from benchmarks.gpu.measure import Rig, measure_case, statistics_of, why_not
from benchmarks.gpu.plan import Case
from benchmarks.gpu.stages import Outcome
from benchmarks.registry import Provider
from weft import BackendUnavailableError

ATTENTION = registry.load("attention")
TINY = Case("tiny", "edit_maps", "fp32")


@pytest.fixture
def rig(clock, monkeypatch):
    # interpreted, Triton would take these calls, at a second each
    monkeypatch.setattr(import_module("weft.ops._triton"), "is_interpreted", lambda *arguments: False)
    return Rig(
        clock,
        Ceilings(copy_gb_s=3000.0, matmul_tflop_s=800.0),
        l2_bytes=10_000,
        device="cpu",
        peak=lambda call, size: size + 1,
        state=lambda: {"sm_mhz": 1980.0},
    )


def test_a_line_has_what_a_reader_needs(rig):
    lines = [line for line in measure_case(rig, ATTENTION, TINY) if "kind" not in line]
    # the CPU takes weft and the plain peers; each is there once, in the order of the plan
    assert [line["provider"] for line in lines] == ["weft", "eager", "sdpa_padded", "sdpa_unpadded", "daam"]
    for line in lines:
        assert len(line["passes_ms"]) == 2 and line["p20_ms"] <= line["median_ms"] <= line["p80_ms"]
        assert line["launched_ms"] > 0 and line["graph"] and line["rounds"] >= 10
        # twice 10 kB of cache at some 8 kB a set
        assert line["sets"] == 3 and line["cold"] and line["floor"] == "copy"
        assert line["floor_ms"] == pytest.approx(line["bytes"] / 3e9, abs=1e-6)
        assert line["peak_extra_bytes"] == line["result_bytes"] + 1
        assert line["sm_mhz"] == 1980.0 and not line["quick"]
        json.dumps(line)
    assert {line["provider"]: line["note"] for line in lines}["daam"] == "delta only"


def test_who_cannot_says_why(rig):
    silent = {x["provider"]: x for x in measure_case(rig, ATTENTION, TINY) if "kind" in x}
    assert set(silent) == {"weft_cuda", "weft_triton"}
    assert silent["weft_cuda"]["kind"] == "refused"
    assert "cuda: needs CUDA tensors; q is on cpu" in silent["weft_cuda"]["reason"]


def test_a_peer_without_its_kernel_costs_the_others_nothing(rig):
    lines = list(measure_case(rig, ATTENTION, Case("tiny", "plain", "fp32")))
    kinds = {line["provider"]: line.get("kind", "measured") for line in lines}
    assert kinds["sdpa_cudnn"] == "refused" and kinds["weft"] == "measured"


@pytest.mark.parametrize(
    ("ours", "error", "kind"),
    [
        (True, BackendUnavailableError("no"), "refused"),
        (True, RuntimeError("an illegal memory access was encountered"), "failed"),
        (True, AssertionError("`out` is off by 1"), "failed"),
        (False, RuntimeError("No available kernel"), "refused"),
        (False, torch.cuda.OutOfMemoryError("no memory"), "refused"),
        (False, AssertionError("`out` is off by 1"), "failed"),
    ],
)
def test_refusing_is_not_failing(ours, error, kind):
    line = why_not(Provider("p", lambda problem: lambda: None, ours=ours), error)
    assert line["kind"] == kind and str(error) in line["reason"]


def test_a_wrong_provider_has_no_number(rig):
    (mode,) = registry.select("mode", ATTENTION.modes, ("edit_maps",))
    (weft,) = registry.select("provider", mode.providers, ("weft",))

    def wrong(problem):
        call = weft.prepare(problem)
        return lambda: tuple(x * 1.1 for x in call())

    providers = tuple(replace(p, prepare=wrong) if p.name == "weft" else p for p in mode.providers)
    modes = tuple(replace(m, providers=providers) if m.name == "edit_maps" else m for m in ATTENTION.modes)
    lines = list(measure_case(rig, replace(ATTENTION, modes=modes), TINY))
    (found,) = [line for line in lines if line["provider"] == "weft"]
    assert found["kind"] == "failed" and "`out` is off by 0.1" in found["reason"]
    assert "eager" in {line["provider"] for line in lines if "kind" not in line}


def test_what_is_not_reached_is_reported_and_the_rest_kept(rig, capsys):
    kept: list = []
    lines = measure.measure(rig, (TINY,), until=float("inf"), keep=kept.append)
    late = measure.measure(rig, (TINY, Case("tiny", "plain", "fp32")), until=0.0, keep=kept.append)
    assert kept[0] == lines and len(kept) == 3
    assert [line["kind"] for line in late] == ["not reached", "not reached"]
    shown = capsys.readouterr().out
    assert "attention tiny (B 2" in shown and "tiny fp32 plain: not reached" in shown


def test_a_case_that_cannot_begin_is_a_failure(rig, monkeypatch):
    broken = replace(ATTENTION, make_inputs=lambda *a, **k: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("no")))
    monkeypatch.setattr(registry, "load", lambda op: broken)
    (line,) = measure.measure(rig, (TINY,), until=float("inf"), keep=lambda lines: None)
    assert line["kind"] == "failed" and line["reason"] == "OutOfMemoryError: no"


def test_statistics_keep_the_passes_apart():
    found = statistics_of([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
    assert found["passes_ms"] == [2.0, 5.0] and found["median_ms"] == 4.0 and found["rounds"] == 6


def test_the_page_of_a_run(rig):
    found = list(measure_case(rig, ATTENTION, TINY))
    around = {"device": "a GPU", "date": "2027-01-01T00:00:00", "torch": "2.13", "commit": "abc"}
    lines = [{**x, **around, "run": "r", "device_type": "cuda"} for x in found if "kind" not in x]
    silent = [{**x, **around} for x in found if "kind" in x]
    tests = ({"test": "tests/x.py::test_y", "outcome": "failed", "seconds": 1.0, "why": "assert 0"},)
    outcomes = [Outcome("op tests", "failed", 3.0, "1 failed", "python -m pytest", tests)]
    page = summary.markdown(around, outcomes, lines, silent)
    assert "| op tests | failed | 3 | 1 failed |" in page
    assert "| tiny | fp32 | edit_maps | daam |" in page and "| delta only |" in page
    assert "| tiny fp32 edit_maps | weft_cuda | refused |" in page
    assert [line["kind"] for line in summary.stage_lines(outcomes)] == ["stage", "failed test"]


def test_the_state_of_a_device_is_read():
    values = ["1980", "2619", "1980", "34", "118.35", "700.00", "0x0000000000000000"]
    assert device.read_state(values) == {
        "sm_mhz": 1980.0,
        "memory_mhz": 2619.0,
        "sm_mhz_limit": 1980.0,
        "temperature_c": 34.0,
        "power_w": 118.35,
        "power_w_limit": 700.0,
        "throttle": "0x0000000000000000",
    }
    assert device.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert device.l2_bytes(object()) == device.USUAL_L2_BYTES


def test_the_plan_is_described_in_full():
    described = list(plan.describe())
    assert len(described) == len(plan.PLAN)
    assert "sd15_64 bf16 edit_maps (B 2, H 8, Nq 4096, Nk 77, D 40): weft, weft_cuda" in "\n".join(described)
    assert "flex_compiled (alpha and delta only)" in described[1]
