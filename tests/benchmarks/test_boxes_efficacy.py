"""How the benchmark of boxes makes its cases and reads where objects are; the pictures take minutes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from weft.shapes.captions import Prompt
from weft.shapes.rendering import render
from weft.shapes.vocabulary import COLOURS
from weft.shapes.world import Scene, SceneObject

CIRCLE = SceneObject("circle", "red", 16, 32, 10.0, COLOURS["red"])
STAR = SceneObject("star", "green", 48, 32, 10.0, COLOURS["green"])
CROSS = SceneObject("cross", "blue", 32, 52, 8.0, COLOURS["blue"])
LEFT, RIGHT = (0, 0, 32, 64), (32, 0, 64, 64)


def picture(*items: SceneObject) -> np.ndarray:
    return render(Scene(items, (50, 50, 60)))


@pytest.mark.parametrize("objects", [2, 3])
def test_boxes_of_a_case_are_apart_and_drawn_for_each_prompt(objects: int) -> None:
    from benchmarks.efficacy.boxes.cases import LAYOUTS, cases

    found = cases(40, objects, 5)
    assert found == cases(60, objects, 5)[:40], "the same cases every time"
    assert {frozenset(case.boxes) for case in found} == {frozenset(layout) for layout in LAYOUTS[objects]}
    assert len({case.boxes for case in found}) > len(LAYOUTS[objects]), "objects are exchanged, too"
    for case in found:
        assert len(case.named) == objects
        covered = np.zeros((64, 64), int)
        for left, top, right, bottom in case.boxes:
            covered[int(top) : int(bottom), int(left) : int(right)] += 1
        assert covered.max() == 1


def test_an_object_counts_where_its_centre_is() -> None:
    from benchmarks.efficacy.boxes.cases import Case
    from benchmarks.efficacy.boxes.readings import readings

    prompt = Prompt("a red circle and a green star", (CIRCLE.pair, STAR.pair))
    images = [picture(CIRCLE, STAR), picture(CIRCLE), picture(CIRCLE, STAR, CROSS), picture()]
    right = readings(images, [Case(prompt, (LEFT, RIGHT))] * 4)
    assert right == {
        "first": [True, True, True, False],
        "all": [True, False, True, False],
        "alone": [True, False, False, False],
        "bound": [True, False, True, False],
    }
    exchanged = readings(images, [Case(prompt, (RIGHT, LEFT))] * 4)
    assert not any(exchanged["first"] + exchanged["all"] + exchanged["alone"])
    assert exchanged["bound"] == right["bound"]


def test_published_results_are_those_of_the_settings_in_force() -> None:
    """A table of other constants would describe a method that no user gets."""
    from benchmarks.efficacy.boxes.experiment import OUT, VARIANTS

    record = json.loads(OUT.read_text())
    assert record["settings"] == {name: repr(settings) for name, settings in VARIANTS.items() if settings is not None}
