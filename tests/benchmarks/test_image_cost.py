"""The cost of an image: how it is put together, and a tiny one through the whole path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

ROOT = Path(__file__).resolve().parents[2]


def test_stages_are_an_image_of_50_steps() -> None:
    from benchmarks.cases.denoiser import STEPS
    from benchmarks.cases.maskdiffusion import STAGES

    scheduler = DDIMScheduler(steps_offset=1)
    scheduler.set_timesteps(STEPS)
    assert sum(stage.count for stage in STAGES) == STEPS
    first = 0
    for stage in STAGES:
        assert stage.timestep == scheduler.timesteps[stage.index]
        assert first <= stage.index < first + stage.count, "a stage stands for steps in a row"
        first += stage.count


def test_summary() -> None:
    from benchmarks.cases.maskdiffusion import COST, STAGES
    from benchmarks.measuring.image_cost import summary, text

    # every stock pass takes 2 s, the middle one of three images; weft adds 0.1 s and eager 0.5 s to each of the
    # first 15 passes, the default 0.1 s to each of the first 25, whatever the machine does meanwhile
    seconds = {}
    for stage in STAGES:
        stock = [1.0, 2.0, 9.0]
        released, default = stage.index < 15, stage.index < 25
        added = {"stock": 0.0, "weft": 0.1 * released, "default": 0.1 * default, "eager": 0.5 * released}
        seconds[stage.name] = {name: [taken + more for taken in stock] for name, more in added.items()}
    whole = summary(COST, seconds, {"stock": 100, "weft": 110, "default": 120, "eager": 300})
    assert whole["stock_s"] == pytest.approx(100.0)
    assert whole["extra_s"] == {
        "weft": pytest.approx(1.5),
        "default": pytest.approx(2.5),
        "eager": pytest.approx(7.5),
    }
    assert whole["extra_share"] == pytest.approx(0.025) and whole["less_time"] == pytest.approx(5.0)
    assert whole["extra_bytes"] == {"weft": 10, "default": 20, "eager": 200} and whole["less_memory"] == 20.0
    assert "extra time of default 2.50% of stock (at most 5%)" in text(COST, seconds, whole)
    nothing = summary(COST, seconds, {"stock": 100, "weft": 100, "default": 100, "eager": 300})
    assert nothing["less_memory"] is None and "beyond measure less extra memory" in text(COST, seconds, nothing)


def test_another_noise_is_refused() -> None:
    from benchmarks.cases.denoiser import Images
    from benchmarks.cases.maskdiffusion import COST

    found = torch.randn(2, 4, 8, 8)
    images = Images(found, {}, {}, torch.float32, {})
    COST.verify(images, "weft", found)
    COST.verify(images, "stock", found + 1)
    with pytest.raises(AssertionError, match="eager: is off by"):
        COST.verify(images, "eager", found * 1.01)
    with pytest.raises(AssertionError, match="not finite"):
        COST.verify(images, "stock", found / 0)


def test_some_ways() -> None:
    from benchmarks.cases.localized_residuals import COST
    from benchmarks.measuring.image_cost import chosen

    assert chosen(COST, ()) is COST
    assert list(chosen(COST, ("peft",)).ways) == ["weft", "stock", "peft", "blend"]
    with pytest.raises(ValueError, match=r"`way` must be of weft, fused, everywhere, .*; got nothing"):
        chosen(COST, ("nothing",))


@pytest.mark.serial
@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "memory"), [("maskdiffusion", True), ("localized_residuals", False), ("soft_tokens", False)]
)
def test_a_tiny_image(method: str, memory: bool, tmp_path: Path) -> None:
    from benchmarks.measuring.image_cost import COSTS

    cost = COSTS[method]
    quickly = ["--method", method, "--shape", "tiny", "--images", "1", "--threads", "1", "--clock", "cpu", "--no-gate"]
    quickly += [] if memory else ["--no-memory"]  # a process for each way
    command = [sys.executable, "-m", "benchmarks.measuring.image_cost", *quickly, "--out", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"less extra time than {cost.against}" in ran.stdout
    (path,) = tmp_path.glob(f"{method}_cost_*.jsonl")
    (line,) = map(json.loads, path.read_text().splitlines())
    assert set(line["peak_bytes"]) == (set(cost.ways) if memory else set())
    assert all(len(samples) == 1 for by_way in line["seconds"].values() for samples in by_way.values())
    assert f"benchmarks.measuring.image_cost --method {method}" in line["command"]


def test_xl_has_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.cases import denoiser
    from benchmarks.cases.denoiser import SHAPES, make_images
    from benchmarks.cases.localized_residuals import COST

    # XL's ten layers a block are 3 GB of weights; two do all that ten do
    monkeypatch.setitem(denoiser._XL, "transformer_layers_per_block", (1, 1, 2))
    images = make_images(next(shape for shape in SHAPES if shape.name == "tiny_xl"), torch.float32)
    found = {}
    for name in ("weft", "blend", "stock"):
        way = COST.ways[name](images)
        way.begin()
        found[name] = way(COST.stages[0])
        COST.verify(images, name, found[name])
        way.close()
    assert (found["weft"] - found["stock"]).abs().max() > 1e-3
