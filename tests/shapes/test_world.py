"""Scenes are pure functions of their numbers, keep apart, and never show training what is held out."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.shapes.rendering import DISTANCES, coverage, render
from weft.shapes.vocabulary import COLOURS, HELD_OUT_COMBINATIONS, HELD_OUT_PAIRS, IMAGE_SIZE, SHAPES
from weft.shapes.world import GAP, MARGIN, SceneObject, is_held_out, relation, scene


def test_a_scene_depends_on_its_numbers_only():
    assert [scene(3, i) for i in range(50)] == [scene(3, i) for i in range(50)]
    assert scene(3, 0) != scene(4, 0)
    assert scene(3, 0) != scene(3, 1)
    assert scene(3, 0) != scene(3, 0, split="test")


def test_training_never_shows_what_is_held_out():
    for i in range(4000):
        pairs = [item.pair for item in scene(0, i).objects]
        assert not HELD_OUT_PAIRS.intersection(pairs)
        assert not any(frozenset(two) in HELD_OUT_COMBINATIONS for two in combinations(pairs, 2))


def test_every_test_scene_shows_something_held_out():
    assert all(is_held_out([item.pair for item in scene(0, i, "test").objects]) for i in range(500))


def test_training_shows_every_colour_shape_and_allowed_pair():
    shown = {item.pair for i in range(3000) for item in scene(0, i).objects}
    assert shown == {(colour, shape) for colour in COLOURS for shape in SHAPES} - HELD_OUT_PAIRS


def test_held_out_data_names_real_objects_and_is_no_accident_of_the_pairs():
    for pair in HELD_OUT_PAIRS | set().union(*HELD_OUT_COMBINATIONS):
        assert pair[0] in COLOURS
        assert pair[1] in SHAPES
    # a combination that held a held-out pair would test the pair once more, not the combination
    assert not any(HELD_OUT_PAIRS & combination for combination in HELD_OUT_COMBINATIONS)
    assert all(len(combination) == 2 for combination in HELD_OUT_COMBINATIONS)


@given(index=st.integers(0, 10**6), objects=st.integers(1, 3), split=st.sampled_from(["train", "test"]))
def test_objects_are_distinct_stay_inside_and_keep_their_gap(index, objects, split):
    items = scene(1, index, split, objects).objects
    assert len({item.pair for item in items}) == len(items) == objects
    for item in items:
        assert item.size + MARGIN <= min(item.x, item.y)
        assert max(item.x, item.y) <= IMAGE_SIZE - item.size - MARGIN
    for a, b in combinations(items, 2):
        assert math.hypot(a.x - b.x, a.y - b.y) > a.size + b.size + GAP


def test_relation_needs_a_dominant_axis():
    def at(x: float, y: float) -> SceneObject:
        return SceneObject("circle", "red", x, y, 8.0, (220, 40, 40))

    assert relation(at(10, 30), at(40, 32)) == "left of"
    assert relation(at(40, 32), at(10, 30)) == "right of"
    assert relation(at(30, 10), at(32, 40)) == "above"
    assert relation(at(32, 40), at(30, 10)) == "below"
    assert relation(at(10, 10), at(40, 40)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1, "index": 0}, "must not be negative"),
        ({"seed": 0, "index": -1}, "must not be negative"),
        ({"seed": 0, "index": 0, "split": "val"}, "`split` must be one of"),
        ({"seed": 0, "index": 0, "objects": 4}, "`objects` must be 1, 2, 3 or None"),
    ],
)
def test_bad_arguments_say_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        scene(**arguments)


def test_render_gives_the_same_bytes_again():
    image = render(scene(0, 5))
    assert image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, render(scene(0, 5)))


def test_every_shape_lies_near_its_nominal_circle():
    assert tuple(DISTANCES) == SHAPES
    x, y = np.meshgrid(np.linspace(-1.5, 1.5, 301), np.linspace(-1.5, 1.5, 301))
    for distance in DISTANCES.values():
        assert np.hypot(x, y)[distance(x, y) < 0].max() < 1.2


@pytest.mark.parametrize(("shape", "unit_area"), [("circle", math.pi * 0.92**2), ("square", 1.6**2)])
def test_coverage_has_the_area_of_the_shape(shape, unit_area):
    assert coverage(shape, 30.3, 33.8, 12.4).sum() == pytest.approx(unit_area * 12.4**2, rel=0.005)
