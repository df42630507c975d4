"""What counts as present, bound, related, extra and correct."""

from __future__ import annotations

import pytest

from weft.shapes.captions import Prompt
from weft.shapes.measuring import Rate, wilson
from weft.shapes.reader import Detection
from weft.shapes.rendering import render
from weft.shapes.scoring import score
from weft.shapes.world import scene

RED_CIRCLE, BLUE_SQUARE = ("red", "circle"), ("blue", "square")
BOTH = Prompt("a red circle and a blue square", (RED_CIRCLE, BLUE_SQUARE))


def seen(pair: tuple[str, str], x: float = 32.0, y: float = 32.0, confidence: float = 0.95) -> Detection:
    colour, shape = pair
    return Detection(shape, colour, x, y, 10.0, 300.0, confidence)


def test_all_there_is_correct():
    result = score(BOTH, [seen(BLUE_SQUARE, 20), seen(RED_CIRCLE, 44)])
    assert result.correct
    assert result.present
    assert result.bound == (True, True)
    assert result.extras == 0


def test_swapped_colours_are_present_but_not_bound():
    result = score(BOTH, [seen(("blue", "circle"), 20), seen(("red", "square"), 44)])
    assert result.present
    assert result.colours == (True, True)
    assert result.bound == (False, False)
    assert not result.correct


def test_a_missing_object_is_missing():
    result = score(BOTH, [seen(RED_CIRCLE)])
    assert result.shapes == (True, False)
    assert result.bound == (True, False)
    assert result.extras == 0


def test_an_extra_object_spoils_an_image():
    result = score(BOTH, [seen(RED_CIRCLE), seen(BLUE_SQUARE), seen(RED_CIRCLE, 50)])
    assert result.bound == (True, True)
    assert result.extras == 1
    assert not result.correct


def test_a_malformed_blob_is_an_extra_and_no_object():
    result = score(BOTH, [seen(RED_CIRCLE), seen(BLUE_SQUARE, confidence=0.5)])
    assert result.bound == (True, False)
    assert result.extras == 1


def test_one_detection_answers_one_object_only():
    twice = Prompt("a red circle and a blue circle", (RED_CIRCLE, ("blue", "circle")))
    result = score(twice, [seen(RED_CIRCLE)])
    assert result.shapes == (True, False)
    assert result.bound == (True, False)


@pytest.mark.parametrize(
    ("word", "holds"), [("left of", True), ("right of", False), ("above", False), ("below", False)]
)
def test_relations_compare_centres(word, holds):
    prompt = Prompt("", BOTH.objects, ((0, word, 1),))
    result = score(prompt, [seen(RED_CIRCLE, 16), seen(BLUE_SQUARE, 46)])
    assert result.relations == (holds,)
    assert result.correct == holds


def test_nothing_found_scores_nothing():
    result = score(BOTH, [])
    assert result.bound == (False, False)
    assert not result.correct


def test_a_picture_is_read_first():
    drawn = scene(0, 11, objects=2)
    assert score(Prompt("", tuple(item.pair for item in drawn.objects)), render(drawn)).correct


def test_wilson_interval_of_known_values():
    # 8 of 10, from the closed form
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert wilson(0, 20)[0] == 0.0
    assert wilson(20, 20)[1] == 1.0


def test_rate_needs_outcomes():
    assert Rate.of([True, False]).value == 0.5
    with pytest.raises(ValueError, match="at least one outcome"):
        Rate.of([])
