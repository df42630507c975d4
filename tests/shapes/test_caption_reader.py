"""What captions say, against the scenes they were written of."""

from __future__ import annotations

import numpy as np
import pytest

from weft.shapes import objects_of, prompt_of
from weft.shapes.captions import caption, prompts
from weft.shapes.world import relation, scene


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_every_caption_says_the_objects_of_its_scene(objects: int) -> None:
    rng = np.random.default_rng(objects)
    for index in range(60):
        drawn = scene(3, index, "test" if index % 2 else "train", objects)
        text = caption(drawn, rng, is_complete=True)
        assert objects_of(text) == tuple(sorted(item.pair for item in drawn.objects)), text


def test_relations_are_those_of_the_scene() -> None:
    rng, checked = np.random.default_rng(0), 0
    for index in range(200):
        drawn = scene(4, index, objects=2)
        prompt = prompt_of(caption(drawn, rng, is_complete=True))
        assert prompt is not None
        for i, word, j in prompt.relations:
            first, second = (next(item for item in drawn.objects if item.pair == prompt.objects[k]) for k in (i, j))
            assert relation(first, second) == word
            checked += 1
    assert checked > 30


@pytest.mark.parametrize("with_relation", [False, True])
def test_prompts_are_read_back(with_relation: bool) -> None:
    for prompt in prompts(40, 2, relations=with_relation):
        assert prompt_of(prompt.text) == prompt


@pytest.mark.parametrize(
    "text", ["", "a circle", "a red shape", "a red circle and a square", "two birds on a branch", "a red bird"]
)
def test_what_is_no_complete_caption_says_nothing(text: str) -> None:
    assert prompt_of(text) is None
    assert objects_of(text) is None
