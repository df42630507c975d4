"""Captions are true, in the model's words; prompts say what their images must show."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from weft.shapes.captions import caption, near_misses, phrase, prompts
from weft.shapes.vocabulary import CAPTION_WORDS, COLOURS, RELATIONS, SHAPES, SPARE_WORDS, TASK_WORDS
from weft.shapes.world import is_held_out, relation, scene


def captions_of(n: int) -> list[tuple[str, object]]:
    return [(caption(drawn, np.random.default_rng(i)), drawn) for i, drawn in enumerate(scene(2, j) for j in range(n))]


@pytest.mark.parametrize(
    ("colour", "shape", "text"),
    [("red", "ring", "a red ring"), ("orange", "star", "an orange star"), (None, "circle", "a circle")],
)
def test_phrase_has_the_right_article(colour, shape, text):
    assert phrase(colour, shape) == text


def test_captions_have_the_right_articles():
    for text, _ in captions_of(1500):
        assert not re.search(r"\ba [aeiou]", text), text
        assert not re.search(r"\ban [^aeiou]", text), text


def test_captions_use_every_caption_word_and_no_spare_one():
    used = {word for text, _ in captions_of(3000) for word in re.findall(r"\w+|,", text)}
    assert used == {*CAPTION_WORDS, *COLOURS, *SHAPES}
    assert not used & {*SPARE_WORDS, *TASK_WORDS}


def test_captions_name_every_object_of_larger_scenes():
    for text, drawn in captions_of(500):
        if len(drawn.objects) > 1:
            assert all(f"{item.colour} {item.shape}" in text for item in drawn.objects)


def test_relations_mentioned_are_true():
    found = 0
    for text, drawn in captions_of(1500):
        for word in RELATIONS:
            if word in text:
                first = min(drawn.objects, key=lambda item: text.index(f"{item.colour} {item.shape}"))
                (second,) = (item for item in drawn.objects if item is not first)
                assert relation(first, second) == word
                found += 1
    assert found > 100


def test_captions_depend_on_scene_and_stream_only():
    drawn = scene(2, 7)
    assert caption(drawn, np.random.default_rng(5)) == caption(drawn, np.random.default_rng(5))


@pytest.mark.parametrize("objects", [1, 2, 3])
@pytest.mark.parametrize("held_out", [False, True])
def test_prompts_expect_what_they_say(objects, held_out):
    for prompt in prompts(100, objects, held_out=held_out):
        assert len(set(prompt.objects)) == objects
        assert is_held_out(prompt.objects) == held_out
        assert all(phrase(*pair) in prompt.text for pair in prompt.objects)
        assert prompt.relations == ()


def test_prompts_with_relations_join_two_objects():
    found = {prompt.relations[0][1] for prompt in prompts(60, 2, relations=True)}
    assert found == set(RELATIONS)


def test_a_shorter_list_of_prompts_is_the_start_of_a_longer_one():
    assert prompts(10, 2, seed=3) == prompts(30, 2, seed=3)[:10]
    assert prompts(10, 2, seed=3) != prompts(10, 2, seed=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1}, "`n` must not be negative"),
        ({"n": 1, "objects": 4}, "`objects` must be 1, 2 or 3"),
        ({"n": 1, "objects": 3, "relations": True}, "`relations` needs `objects=2`"),
    ],
)
def test_bad_arguments_say_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        prompts(**arguments)


def test_near_misses_change_one_thing_and_are_wrong() -> None:
    """Of a single object one word, or one object more; of several also one fewer, or their colours exchanged."""
    changes = set()
    for number in range(300):
        drawn = scene(4, number)
        found = sorted((item.colour, item.shape) for item in drawn.objects)
        for text in near_misses(drawn, np.random.default_rng(number), 3):
            words = re.findall(r"[a-z]+", text)
            pairs = itertools.pairwise(words)
            wrong = sorted((colour, shape) for colour, shape in pairs if colour in COLOURS and shape in SHAPES)
            assert wrong != found and len(wrong) in (1, 2, 3), text
            changes.add(len(wrong) - len(found))
    assert changes == {-1, 0, 1}


def test_near_misses_depend_on_scene_and_stream_only() -> None:
    first, second = (near_misses(scene(4, 1), np.random.default_rng(7), 5) for _ in range(2))
    assert first == second and len(set(first)) > 1
