"""Scenes with masks: each object's mask holds exactly the pixels that it changes."""

from __future__ import annotations

import numpy as np
import pytest

from weft import shapes
from weft.train.task_prompts.pictures import MaskedPicture


def test_backgrounds_have_no_objects() -> None:
    pictures = shapes.MaskedScenes(200, seed=4, backgrounds=0.25)
    empty = [picture for picture in pictures if not picture.objects]
    assert 30 < len(empty) < 70 and {picture.caption for picture in empty} == {"empty scene"}
    assert all(shapes.read(picture.image) == [] for picture in empty[:20])
    plain = shapes.MaskedScenes(200, seed=4)
    assert all(a.caption == b.caption for a, b in zip(pictures, plain, strict=True) if a.objects), "the others stay"


def test_masks_hold_what_their_object_touches() -> None:
    scenes = shapes.MaskedScenes(30, seed=4)
    for number in range(30):
        drawn, picture = shapes.scene(4, number), scenes[number]
        image = shapes.render(drawn)
        assert np.array_equal(np.asarray(picture.image), image)
        assert [known.caption for known in picture.objects] == [
            shapes.phrase(item.colour, item.shape) for item in drawn.objects
        ]
        touched = (image != np.array(drawn.background)).any(-1)
        masks = [picture.mask(place, shapes.IMAGE_SIZE) for place in range(len(picture.objects))]
        assert not (touched & ~np.any(masks, axis=0)).any()
        # a pixel that is covered by less than a rounding may keep its colour
        assert sum(mask.sum() for mask in masks) <= touched.sum() + 0.05 * image.shape[0] ** 2


def test_it_is_a_sequence() -> None:
    scenes = shapes.MaskedScenes(5)
    assert len(scenes) == 5 and all(isinstance(picture, MaskedPicture) for picture in scenes)
    assert [picture.caption for picture in scenes[1:3]] == [scenes[1].caption, scenes[2].caption]
    assert scenes[-1].caption == scenes[4].caption
    with pytest.raises(IndexError, match="must be below 5; got 5"):
        scenes[5]


def test_held_out_scenes() -> None:
    for picture in shapes.MaskedScenes(5, split="test", objects=2):
        assert len(picture.objects) == 2
