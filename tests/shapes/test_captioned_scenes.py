"""Scenes with captions: lazy, repeatable, and every caption names all that is there."""

from __future__ import annotations

import numpy as np
import pytest

from weft.shapes import CaptionedScenes, render, scene


def test_a_scene_comes_with_captions_that_name_every_object() -> None:
    scenes = CaptionedScenes(20, seed=3, captions=6)
    assert len(scenes) == 20
    for number, (image, captions) in enumerate(scenes):
        drawn = scene(3, number)
        assert np.array_equal(np.asarray(image), render(drawn))
        assert len(captions) == 6 and captions == scenes.captions_of(number)
        for item in drawn.objects:
            assert all(f"{item.colour} {item.shape}" in caption for caption in captions)
    assert max(len(set(captions)) for _, captions in scenes) >= 4


def test_places_are_counted_as_in_any_sequence() -> None:
    scenes = CaptionedScenes(5)
    assert scenes[-1][1] == scenes[4][1] and [captions for _, captions in scenes[1:3]] == [scenes[1][1], scenes[2][1]]
    with pytest.raises(IndexError, match="`index` must be below 5; got 5"):
        scenes[5]
    with pytest.raises(ValueError, match="`count` and `captions` must be at least 1; got 0 and 8"):
        CaptionedScenes(0)
