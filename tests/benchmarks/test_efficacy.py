"""How the efficacy benchmark counts, keeps and compares; the images themselves take minutes and are not made here."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def verdicts(bound: list[bool], correct: list[bool] | None = None) -> Any:
    from benchmarks.efficacy.maskdiffusion.verdicts import Verdicts

    return Verdicts(bound, bound if correct is None else correct, [])


def test_difference_is_that_of_pairs() -> None:
    from benchmarks.efficacy.rates import difference

    found = difference([True, True, True, False, True], [True, False, False, False])
    assert found["pairs"] == 4 and found["mean"] == 0.5
    half = 1.96 * math.sqrt(1 / 3) / 2  # differences 0, 1, 1, 0
    assert found["low"] == pytest.approx(0.5 - half) and found["high"] == pytest.approx(0.5 + half)


def test_trials_count_together_image_by_image() -> None:
    """An ablation of fewer images is compared with the base's verdicts of those same images."""
    from benchmarks.efficacy.maskdiffusion.summary import summarise

    found = {
        "base": {"two": verdicts([True, False, False, False]), "three": verdicts([False, True, True])},
        "short": {"two": verdicts([True, True]), "three": verdicts([True, True])},
    }
    results = summarise(found, ("two", "three"), seeds=4)
    assert results["base"]["two or three"]["bound"]["total"] == 7
    short = results["short"]["two or three"]
    assert short["bound"]["total"] == 4 and short["bound_difference"]["pairs"] == 4
    assert short["bound_difference"]["mean"] == pytest.approx(0.5)  # 0, 1 and 1, 0
    assert "two or three" not in summarise({"base": {"two": verdicts([True])}}, ("two", "three"), 4)["base"]


class Painter:
    """A pipeline whose images show which noise they came from, and which remembers what it was asked for."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def __call__(self, prompts: list[str], *, generator: list[Any], **arguments: Any) -> Any:
        self.prompts += prompts
        images = np.stack([np.full((64, 64, 3), noise.initial_seed() % 97 / 97) for noise in generator])
        return type("Output", (), {"images": images})


def test_a_run_goes_on_where_it_stopped_and_forgets_what_is_too_much(tmp_path: Path) -> None:
    from benchmarks.efficacy.maskdiffusion.verdicts import draw
    from benchmarks.efficacy.trials import Sampling, Trial

    sampling, kept = Sampling(steps=1, batch=2), tmp_path / "kept.json"
    whole = draw(Painter(), Trial("two", 2, 5), sampling, None, tmp_path / "whole.json", lambda n: None)  # type: ignore[arg-type]
    draw(Painter(), Trial("two", 2, 2), sampling, None, kept, lambda n: None)  # type: ignore[arg-type]
    second = Painter()
    resumed = draw(second, Trial("two", 2, 5), sampling, None, kept, lambda n: None)  # type: ignore[arg-type]
    assert second.prompts == [prompt.text for prompt in Trial("two", 2, 5).items(sampling.seed)[2:]]
    assert asdict(resumed) == asdict(whole)
    third, seen = Painter(), []
    short = draw(third, Trial("two", 2, 3), sampling, None, kept, seen.append)  # type: ignore[arg-type]
    assert third.prompts == [] and len(short.bound) == 3 and sum(seen) == 3


def test_verdicts_of_other_settings_are_not_taken_up() -> None:
    from benchmarks.efficacy.digest import digest
    from benchmarks.efficacy.maskdiffusion.experiment import CLEAN, VARIANTS

    digests = {digest(None if settings is None else asdict(settings)) for settings in VARIANTS.values()}
    assert len(digests) == len(VARIANTS)
    assert digest(asdict(replace(CLEAN, gap=0.25))) not in digests


def test_published_results_are_those_of_the_settings_in_force() -> None:
    """A table of other constants would describe a method that does not exist."""
    from benchmarks.efficacy.maskdiffusion.experiment import OUT, VARIANTS

    record = json.loads(OUT.read_text())
    for name, settings in record["settings"].items():
        current = VARIANTS[name]
        assert current is not None
        assert settings == json.loads(json.dumps(asdict(current))), f"measure {name} again"
