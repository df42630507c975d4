"""Where holes are torn: what each recipe promises, for pictures of several sizes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.train.task_prompts import masks

SIZES = st.sampled_from([16, 64, 200])
SEEDS = st.integers(0, 100_000)


def thing(size: int, rng: np.random.Generator) -> np.ndarray:
    """A disc somewhere, maybe cut by the border."""
    x, y = rng.uniform(0, size, 2)
    radius = rng.uniform(1, size / 3)
    rows, columns = np.mgrid[:size, :size]
    found = np.hypot(columns + 0.5 - x, rows + 0.5 - y) <= radius
    found[int(y), int(x)] = True
    return found


@given(SIZES, SEEDS)
def test_random_holes_are_neither_nothing_nor_all(size: int, seed: int) -> None:
    for recipe in (masks.strokes, masks.sides):
        hole = recipe(size, np.random.default_rng(seed))
        assert hole.shape == (size, size) and hole.dtype == bool and hole.any() and not hole.all()


@given(SIZES, SEEDS)
def test_sides_leave_a_rectangle_of_at_least_a_quarter(size: int, seed: int) -> None:
    hole = masks.sides(size, np.random.default_rng(seed))
    kept = np.argwhere(~hole)
    (top, left), (bottom, right) = kept.min(0), kept.max(0) + 1
    assert (bottom - top) * (right - left) == len(kept), "a rectangle"
    for start, end in ((top, size - bottom), (left, size - right)):
        assert max(start, end) <= np.ceil(masks.OUTPAINT_DEPTH * size)


def test_sides_are_chosen_by_halves() -> None:
    """Each side in half of the pictures, and all four also where none was drawn."""
    holes = [masks.sides(64, np.random.default_rng(seed)) for seed in range(400)]
    touched = np.array([[hole[:, 0].all(), hole[:, -1].all(), hole[0].all(), hole[-1].all()] for hole in holes])
    share = 0.5 + 1 / 16
    assert np.abs(touched.mean(0) - share).max() < 4 * np.sqrt(share * (1 - share) / 400)
    assert touched.any(1).all()


@given(SIZES, SEEDS)
def test_holes_of_an_object_hold_it(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    disc = thing(size, rng)
    for recipe in (masks.box, masks.grown):
        assert (recipe(disc, rng) | ~disc).all()
    assert 0 < masks.fit(disc, masks.grown(disc, rng)) <= 1


def test_a_box_is_a_box_or_has_a_warped_outline_round_it() -> None:
    disc = np.zeros((64, 64), bool)
    disc[20:40, 24:38] = True
    box = np.zeros((64, 64), bool)
    box[18:42, 22:40] = True  # grown by one, and one more: 2 pixels of 512 are at least one of 64
    found = [masks.box(disc, np.random.default_rng(seed)) for seed in range(60)]
    plain = [np.array_equal(hole, box) for hole in found]
    assert 15 < sum(plain) < 45
    assert all((hole | ~box).all() for hole in found), "a warped one holds the box as well"


def test_the_fit_is_the_share_of_the_hole_that_the_object_fills() -> None:
    disc = thing(128, np.random.default_rng(1))
    assert masks.fit(disc, disc) == 1, "an object that was not grown fills its hole"
    fits, hole = [], disc
    for _ in range(6):
        hole = cv2.dilate(hole.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        fits.append(masks.fit(disc, hole))
    assert all(a > b for a, b in zip([1.0, *fits], fits, strict=False)), "it falls as the hole grows"
    assert masks.fit(disc, np.zeros_like(disc)) == 1, "never above one"


def test_growth_reaches_from_tight_to_loose() -> None:
    disc = thing(256, np.random.default_rng(3))
    fits = [masks.fit(disc, masks.grown(disc, np.random.default_rng(seed))) for seed in range(200)]
    assert max(fits) > 0.8 and min(fits) < 0.4 and len({round(fit, 2) for fit in fits}) > 20


@pytest.mark.parametrize("recipe", [masks.strokes, masks.sides])
def test_the_same_numbers_give_the_same_hole(recipe: Any) -> None:
    first, again, other = (recipe(64, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
