"""What the efficacy of the distribution losses is read from: noises, wordings, and how pictures of a prompt agree."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from benchmarks.efficacy.distribution_losses.experiment import TERMS, Options
from benchmarks.efficacy.distribution_losses.summary import table
from benchmarks.efficacy.distribution_losses.trials import BASE, MEASURES, TOKENS, Views, readings, wordings
from weft.shapes.captions import Prompt, prompts
from weft.shapes.rendering import render
from weft.shapes.world import Scene, scene

WORDS, NOISES = Views("words", 3, 4, rewords=True), Views("noises", 3, 4, rewords=False)


def two_objects() -> list[Scene]:
    found = [one for number in range(40) if len((one := scene(5, number)).objects) == 2]
    return found[:2]


def test_wordings_say_the_same_of_the_same_objects() -> None:
    prompt = prompts(1, 2, seed=4)[0]
    found = wordings(prompt)
    assert found[0] == prompt and len({one.text for one in found}) == len(found) == 8
    assert all(one.objects == prompt.objects for one in found)
    names = prompt.text.split(" and ")
    assert all(name in one.text for one in found for name in names)


def test_wordings_share_a_noise_and_noises_a_wording() -> None:
    words, noises = WORDS.items(7), NOISES.items(7)
    assert len(words) == len(noises) == 12
    for first in range(0, 12, 4):
        assert len({number for _, number in words[first : first + 4]}) == 1
        assert len({prompt.text for prompt, _ in words[first : first + 4]}) == 4
        assert len({number for _, number in noises[first : first + 4]}) == 4
        assert len({prompt.text for prompt, _ in noises[first : first + 4]}) == 1
    assert not {number for _, number in words} & {number for _, number in noises}
    assert [prompt for prompt, _ in NOISES.items(7)] == [prompt for prompt, _ in replace(NOISES, prompts=5).items(7)][
        :12
    ]


def test_readings_of_pictures_that_agree_and_that_do_not() -> None:
    """Two pictures of each of three prompts: right twice and equal; right and wrong; wrong twice and equal."""
    one, other = two_objects()
    right, wrong = (render(it) for it in (one, other))
    objects = tuple((item.colour, item.shape) for item in one.objects)
    assert sorted(objects) != sorted((item.colour, item.shape) for item in other.objects)
    images = np.stack([right, right, right, wrong, wrong, wrong])
    found = readings(images, [(Prompt("two", objects), 0)] * 6, 2)
    assert found["bound"] == [100, 50, 0] and found["correct"] == [100, 50, 0]
    assert found["agreement"] == [100, 0, 100]
    assert found["spread"][0] == found["spread"][2] == 0 < found["spread"][1]


def test_every_variant_has_a_lesson_of_its_own_and_the_same_length() -> None:
    options = Options(steps=10)
    lessons = {name: options.lesson(name) for name in TERMS}
    assert len({str(asdict(lesson)) for lesson in lessons.values()}) == len(TERMS)
    assert {lesson.loop for lesson in lessons.values()} == {lessons[TOKENS].loop}
    for name, lesson in lessons.items():
        config = lesson.config()
        config.check(None, who="test")
        assert [loss.name.upper() for loss in config.distribution.losses] == [
            word for word in ("F2F", "F2R") if word in name
        ]
        assert config.distribution.through == ("chain" if "chain" in name else "x0")


@pytest.mark.parametrize("name", [BASE, "F2R, x0"])
def test_the_table_compares_with_tokens_alone(name: str) -> None:
    trial = {"bound": [50.0, 100.0, 75.0], "correct": [0.0] * 3, "agreement": [100.0, 50.0, 0.0], "spread": [1.0] * 3}
    found = {TOKENS: {"words": trial}, name: {"words": {**trial, "bound": [75.0, 100.0, 100.0]}}}
    record = {
        "options": asdict(Options()),
        "seconds": {TOKENS: 10.0},
        "results": MEASURES.summarise(found),
        "circumstances": {"commit": "abc", "date": "2026-01-01T00"},
    }
    rows = [line for line in table(record).splitlines() if line.startswith(f"| {name} ")]
    assert len(rows) == 1 and "| 3 |" in rows[0] and "91.7" in rows[0]
    assert ("(+16.7" in rows[0]) == (name != BASE)
