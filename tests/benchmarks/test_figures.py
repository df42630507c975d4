"""The figures to reach, on results made up for it: met, missed, unsettled, not measured."""

from __future__ import annotations

import json

import pytest

from benchmarks.gpu.plan import PLAN
from benchmarks.reporting import figures, headline, tables
from benchmarks.reporting.figures import FIGURES, KINDS, Figure, evaluate

SIZES = {"B": 2, "H": 10, "Nq": 4096, "Nk": 77, "D": 64}


def line(provider: str, mode: str, passes: list[float], **changes):
    """A result line as ``benchmarks.gpu.measure`` writes it."""
    made = {
        "op": "attention",
        "shape": "sdxl_64",
        "sizes": SIZES,
        "dtype": "bf16",
        "mode": mode,
        "provider": provider,
        "ours": provider.startswith("weft"),
        "note": "",
        "median_ms": sum(passes) / len(passes),
        "passes_ms": passes,
        "p20_ms": min(passes),
        "p80_ms": max(passes),
        "launched_ms": 0.05,
        "floor_ms": 0.006,
        "floor": "copy",
        "cold": True,
        "peak_extra_bytes": 0,
        "device": "NVIDIA H100",
        "device_type": "cuda",
        "driver": "1",
        "cuda": "13",
        "torch": "2.13",
        "commit": "abc",
        "dirty": False,
        "quick": False,
        "run": "one",
        "date": "2027-01-01T00:00:00+00:00",
    }
    return {**made, **changes}


SPEED_UP = Figure("f", "sdxl_64", "edit_maps", "speed-up", 5.0, ("eager",), "edit_maps")
SLOW_DOWN = Figure("f", "sdxl_64", "edit_maps", "slow-down", 1.15, figures.SDPA, "plain")
SHARE = Figure("f", "sdxl_64", "edit_maps", "share", 0.6)
MEMORY = Figure("f", "sdxl_64", "edit_maps", "memory", 1.0)


def verdict(figure: Figure, *lines):
    (found,) = evaluate(list(lines), (figure,))
    return found


def test_met_and_by_how_much():
    found = verdict(SPEED_UP, line("weft", "edit_maps", [0.01, 0.01]), line("eager", "edit_maps", [0.06, 0.06]))
    assert found.status == "met"
    assert found.text() == "6.00x of eager: met by 20% (passes 6.00x and 6.00x)"


def test_missed_and_by_how_much():
    found = verdict(SPEED_UP, line("weft", "edit_maps", [0.01, 0.01]), line("eager", "edit_maps", [0.04, 0.04]))
    assert found.status == "missed" and "4.00x of eager: missed by 20%" in found.text()


def test_passes_that_disagree_settle_nothing():
    found = verdict(SPEED_UP, line("weft", "edit_maps", [0.01, 0.01]), line("eager", "edit_maps", [0.049, 0.051]))
    assert found.status == "unsettled"
    assert found.text() == "4.90x and 5.10x of eager: unsettled, the passes disagree"


def test_the_best_peer_counts():
    found = verdict(
        SLOW_DOWN,
        line("weft", "edit_maps", [0.011, 0.011]),
        line("sdpa_flash", "plain", [0.012, 0.012]),
        line("sdpa_cudnn", "plain", [0.010, 0.010]),
        line("sdpa_padded", "edit_maps", [0.001, 0.001]),
        line("eager", "plain", [0.001, 0.001]),
    )
    assert found.against == "sdpa_cudnn" and found.values == pytest.approx((1.1, 1.1)) and found.status == "met"


def test_share_of_the_floor_names_the_ceiling():
    found = verdict(SHARE, line("weft", "edit_maps", [0.012, 0.012]))
    assert found.text() == "50% of copy: missed by 17% (passes 50% and 50%)"


def test_memory_is_measured_in_inputs_and_results():
    size = 2 * 2 * (4096 + 77) * 2 * 10 * 64
    assert verdict(MEMORY, line("weft", "edit_maps", [1.0, 1.0], peak_extra_bytes=size)).values == (1.0,)
    found = verdict(MEMORY, line("weft", "edit_maps", [1.0, 1.0], peak_extra_bytes=2 * size))
    assert found.text() == "2.00x: missed by 100% (passes 2.00x)"
    assert verdict(MEMORY, line("weft", "edit_maps", [1.0, 1.0], peak_extra_bytes=None)).status == "not measured yet"


def test_only_lines_of_one_run_are_compared():
    ours = line("weft", "edit_maps", [0.01, 0.01])
    other = line("eager", "edit_maps", [0.06, 0.06], run="two")
    assert verdict(SPEED_UP, ours, other).text() == "not measured yet"


def test_the_last_run_that_has_everything_counts():
    old = [line("weft", "edit_maps", [0.02, 0.02]), line("eager", "edit_maps", [0.06, 0.06])]
    new = [{**x, "run": "two", "date": "2027-02-01T00:00:00+00:00"} for x in old]
    new[0]["passes_ms"] = [0.01, 0.01]
    half = {**old[0], "run": "three", "date": "2027-03-01T00:00:00+00:00"}
    assert verdict(SPEED_UP, *new, *old, half).values == pytest.approx((6.0, 6.0))


def test_another_backend_shape_or_dtype_does_not_stand_in():
    eager = line("eager", "edit_maps", [0.06, 0.06])
    for change in ({"provider": "weft_cuda"}, {"shape": "sd15_64"}, {"dtype": "fp16"}, {"mode": "plain"}):
        assert verdict(SPEED_UP, {**line("weft", "edit_maps", [0.01, 0.01]), **change}, eager).values == ()


def test_every_figure_is_measured_by_the_plan():
    measured = {(case.shape, case.dtype, case.mode): case.providers for case in PLAN}
    for figure in FIGURES:
        assert "weft" in measured[figure.shape, figure.dtype, figure.mode], figure
        if figure.against:
            assert set(figure.against) <= set(measured[figure.shape, figure.dtype, figure.against_mode]), figure
        assert figure.kind in KINDS


def test_tables_of_nothing_and_of_a_device():
    nothing = figures.markdown([])
    assert nothing.count("\n| ") == len(FIGURES) and nothing.count("not measured yet") == 1, (
        "one line, no empty column"
    )
    assert f"{len(FIGURES)} not measured yet" in figures.text([])
    lines = [line("weft", "edit_maps", [0.01, 0.01]), line("eager", "edit_maps", [0.06, 0.06])]
    cpu = {**lines[0], "device_type": "cpu", "device": "a CPU"}
    found = figures.markdown([*lines, cpu])
    assert "| NVIDIA H100 |" in found and "a CPU" not in found
    assert "| at least 5.00x as fast | 6.00x of eager: met by 20%" in found
    assert f"2 met, {len(FIGURES) - 2} not measured yet" in figures.text(lines)


def test_devices_are_side_by_side():
    gpu = [line("weft", "edit_maps", [0.01, 0.01]), line("eager", "edit_maps", [0.06, 0.06], note="delta only")]
    weft_cuda = line("weft_cuda", "edit_maps", [0.001, 0.001])
    cpu = [
        {**x, "device_type": "cpu", "device": "CPU", "simd": "AVX2", "threads": 2, "median_ms": 1e3 * x["median_ms"]}
        for x in gpu
    ]
    slower = [{**x, "mode": "edit_maps_backward", "median_ms": 100 - x["median_ms"]} for x in cpu]
    both = tables.markdown([weft_cuda, *gpu, *cpu, *slower])
    assert "| CPU, AVX2, 2 threads: weft, ms | fastest baseline, ms | speed-up | NVIDIA H100: weft, ms |" in both
    row = "10.00, 0.0 MB | eager (delta only): 60.00, 0.0 MB | **6.00x** | 0.0100, 0.0 MB |"
    assert f"| sdxl_64 | bf16 | edit_maps | {row} eager (delta only): 0.0600, 0.0 MB | **6.00x** |" in both
    assert "| **0.44x** |  |  |  |" in both, "a loss is in the table; another device's cells are empty"
    alone = tables.markdown(cpu)
    assert "| NVIDIA" not in alone and "- NVIDIA GPU: not measured yet." in alone


def test_the_few_numbers_of_the_first_page(tmp_path):
    assert headline.markdown(tmp_path) == "Not measured yet."
    cost = {"op": "maskdiffusion", "shape": "sd15_512", "date": "2026-01-01", "stock_s": 100.0, "device_type": "cpu"}
    cost |= {"device": "CPU", "simd": "AVX2", "threads": 2, "extra_s": {"weft": 10.0, "eager": 120.0}}
    (tmp_path / "maskdiffusion_cost_cpu.jsonl").write_text(json.dumps(cost) + "\n")
    peers = [line("weft", "edit_maps", [0.01, 0.01]), line("eager", "edit_maps", [0.06, 0.06], note="delta only")]
    calls = [{**x, "shape": "sd15_64", "quick": False} for x in peers]
    (tmp_path / "attention_gpu.jsonl").write_text("".join(json.dumps(x) + "\n" for x in calls))
    call, image = headline.markdown(tmp_path).splitlines()[2:]
    assert call.endswith("| 0.0100 ms | 0.0600 ms, `eager` (delta only) | **6.00x** | NVIDIA H100 |")
    assert image.endswith("stock 100 s | 110 s | 220 s, eager attention | **2.00x** | CPU, AVX2, 2 threads |")


def test_only_results_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"kind": "stage"}\n{"median_ms": 1, "quick": true}\n')
    (tmp_path / "b.jsonl").write_text('{"median_ms": 1, "quick": false}\n')
    assert tables.read(tmp_path) == [{"median_ms": 1, "quick": False}]
