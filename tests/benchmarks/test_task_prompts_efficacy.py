"""How the benchmark of task prompts makes its cases and reads what was painted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from weft.shapes.rendering import coverage, render
from weft.shapes.vocabulary import COLOURS
from weft.shapes.world import Scene, SceneObject

GREY = (50, 50, 60)
TASKS = ("removal", "insert", "shape", "context", "outpaint")
CIRCLE = SceneObject("circle", "red", 18, 44, 10.0, COLOURS["red"])
STAR = SceneObject("star", "green", 48, 16, 10.0, COLOURS["green"])


def picture(*items: SceneObject) -> np.ndarray:
    return render(Scene(items, GREY))


def a_case(**changes):
    from benchmarks.efficacy.task_prompts.cases import Case

    hole = np.zeros((64, 64), bool)
    hole[30:58, 4:32] = True
    values = {"image": picture(CIRCLE, STAR), "hole": hole, "staying": (STAR,), "truth": picture(STAR)}
    return Case(**{**values, **changes})


@pytest.mark.parametrize("task", TASKS)
def test_cases_hide_no_object_that_should_stay(task: str) -> None:
    from benchmarks.efficacy.task_prompts.cases import case

    for number in range(0, 60, 4):
        one = case(task, 5000, number)
        assert one.hole.any() and not one.hole.all()
        assert np.array_equal(one.truth, case(task, 5000, number).truth), "the same case every time"
        for item in one.staying:
            area = coverage(item.shape, item.x, item.y, item.size) > 0
            assert (area & one.hole).sum() <= 0.5 * area.sum()
        assert (one.asked is not None) == (task in ("insert", "shape"))
        assert bool(one.extension) == (task == "outpaint")


def test_what_a_removal_is_read_as() -> None:
    from benchmarks.efficacy.task_prompts.readings import readings

    wrong_colour = picture(STAR).copy()
    wrong_colour[30:58, 4:32] += 12
    images = [picture(STAR), picture(CIRCLE, STAR), picture(), wrong_colour]
    found = readings(images, [a_case()] * 4, "removal")
    assert found["nothing_new"] == [True, False, True, True]
    assert found["kept"] == [True, True, False, True]
    assert found["colour"][0] == 0 and found["colour"][1] > 10 and found["colour"][3] == pytest.approx(12)
    assert found["outside"][0] == 0 and found["outside"][2] > 50


def test_what_an_insertion_is_read_as() -> None:
    from benchmarks.efficacy.task_prompts.readings import readings

    blue = SceneObject("square", "blue", 18, 44, 10.0, COLOURS["blue"])
    elsewhere = SceneObject("square", "blue", 48, 44, 8.0, COLOURS["blue"])
    ring = SceneObject("ring", "pink", 50, 48, 8.0, COLOURS["pink"])
    images = [picture(blue, STAR), picture(CIRCLE, STAR), picture(elsewhere, STAR), picture(blue, STAR, ring)]
    found = readings(images, [a_case(asked=("blue", "square"))] * 4, "insert")
    assert found["right"] == [True, False, False, True]
    assert found["alone"] == [True, False, False, False]


def test_how_closely_a_hole_is_filled() -> None:
    from benchmarks.efficacy.task_prompts.readings import readings

    square = SceneObject("square", "blue", 18, 44, 17.0, COLOURS["blue"])
    hole = coverage("square", 18, 44, 17.0) > 0
    small = SceneObject("square", "blue", 18, 44, 8.5, COLOURS["blue"])
    found = readings(
        [picture(square, STAR), picture(small, STAR), picture(STAR)],
        [a_case(hole=hole, asked=("blue", "square"))] * 3,
        "shape",
    )["overlap"]
    assert found[0] > 95 and 20 < found[1] < 35 and found[2] == 0


def test_what_was_outside_of_an_extension() -> None:
    from benchmarks.efficacy.task_prompts.readings import readings

    whole = picture(CIRCLE, STAR)
    hole = np.zeros((64, 64), bool)
    hole[:, :14] = True
    one = a_case(image=whole[:, 12:], hole=hole, staying=(CIRCLE, STAR), truth=whole, extension={"left": 12})
    changed = whole.copy()
    changed[40, 60] = changed[40, 60] + 7
    assert readings([whole, changed], [one] * 2, "outpaint")["outside"] == [0, 7]


def test_a_run_measures_every_variant_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.efficacy.task_prompts import experiment as benchmark

    options = benchmark.Options(tasks=("removal", "outpaint"), pictures=2, steps=2, kept=tmp_path)
    found = benchmark.measure(*benchmark.model(options), options)
    assert {task: list(variants) for task, variants in found.items()} == {
        task: list(benchmark.VARIANTS[task]) for task in options.tasks
    }
    assert all(values == [0, 0] for values in (found["removal"]["learnt"]["removal"]["outside"],)), "pixels stay"
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = benchmark.measure(*benchmark.model(options), options)
    assert json.dumps(again) == json.dumps(found)
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_the_table_has_a_part_a_task() -> None:
    from benchmarks.efficacy.task_prompts.readings import MEASURES, readings, table

    images, cases = [picture(STAR), picture(CIRCLE, STAR)] * 2, [a_case()] * 4
    rows = {name: {"removal": readings(images, cases, "removal")} for name in ("learnt", "fixed words")}
    record = {
        "method": "PowerPaint",
        "sampling": {"steps": 20, "guidance": 4.0},
        "circumstances": {"date": "2026-11-22", "commit": "abc"},
        "tasks": {"removal": MEASURES["removal"].summarise(rows)},
    }
    said = table(record)
    assert "**removal**" in said and "| learnt | 4 | 50.0 [15.0, 85.0] |" in said and "(+0.0 [+0.0, +0.0])" in said
