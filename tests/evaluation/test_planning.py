"""Which images are asked for, and which of them are compared."""

from __future__ import annotations

import pytest
from PIL import Image

from weft.evaluation import Plan, requests
from weft.evaluation.planning import first_of_scenes, noises, wordings
from weft.train.pictures.pairs import Pair

PICTURES = [Pair(Image.new("RGB", (8, 8)), tuple(f"{i} by {k}" for k in range(3)), str(i)) for i in range(5)]


def test_each_scene_once_and_some_in_other_words_and_noises() -> None:
    asked = requests(PICTURES, Plan(count=4, groups=2, paraphrases=3, noises=2))
    assert [request.scene for request in asked] == [0, 1, 2, 3, 0, 0, 0, 1, 1, 1]
    assert first_of_scenes(asked) == [0, 1, 2, 3]
    assert [[asked[place].caption for place in group] for group in wordings(asked)] == [
        [f"{i} by {k}" for k in range(3)] for i in (0, 1)
    ]
    assert [len({asked[place].noise for place in group}) for group in wordings(asked)] == [1, 1]
    assert [[asked[place].caption for place in group] for group in noises(asked)] == [["0 by 0"] * 2, ["1 by 0"] * 2]


def test_scenes_have_noises_of_their_own_that_follow_the_seed_alone() -> None:
    asked = requests(PICTURES, Plan(count=5, groups=5, paraphrases=1, noises=4))
    assert len({request.noise for request in asked}) == 20
    fewer = requests(PICTURES, Plan(count=3, groups=2, paraphrases=2, noises=2))
    assert fewer[:3] == asked[:3]
    other = requests(PICTURES, Plan(count=5, groups=5, paraphrases=1, noises=4, seed=1))
    assert not {request.noise for request in asked} & {request.noise for request in other}


def test_a_scene_with_fewer_captions_has_a_smaller_group() -> None:
    asked = requests(PICTURES, Plan(count=2, groups=2, paraphrases=9, noises=1))
    assert list(map(len, wordings(asked))) == [3, 3]
    assert noises(asked) == []


@pytest.mark.parametrize("name", ["count", "groups", "paraphrases", "noises", "seed"])
def test_a_number_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least"):
        Plan(**{name: -1})


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="wants 9 pictures with captions; there are 5"):
        requests(PICTURES, Plan(count=9))
