"""The reader is exact on rendered scenes and forgiving of what a decoder does to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from weft.shapes.measuring import mixed_scenes, reader_accuracy, reads_exactly
from weft.shapes.reader import read
from weft.shapes.rendering import coverage, render
from weft.shapes.vocabulary import COLOURS, SHAPES
from weft.shapes.world import Scene, SceneObject, scene


def test_reads_rendered_scenes():
    assert reader_accuracy(mixed_scenes(240, seed=77)).value >= 0.995


@settings(max_examples=60)
@given(
    shape=st.sampled_from(SHAPES),
    colour=st.sampled_from(sorted(COLOURS)),
    x=st.floats(17, 47),
    y=st.floats(17, 47),
    size=st.floats(8, 15),
    grey=st.integers(10, 100),
)
def test_reads_any_single_object(shape, colour, x, y, size, grey):
    item = SceneObject(shape, colour, x, y, size, COLOURS[colour])
    (found,) = read(render(Scene((item,), (grey, grey, grey))))
    assert found.pair == item.pair
    assert (found.x, found.y, found.size) == pytest.approx((x, y, size), abs=0.6)
    assert found.confidence > 0.85


def test_survives_blur_noise_and_colour_drift():
    rng = np.random.default_rng(0)
    drifted = []
    for drawn in mixed_scenes(60, seed=78):
        soft = ndimage.gaussian_filter(render(drawn).astype(float), (0.6, 0.6, 0))
        noisy = 0.93 * soft + 6 + rng.normal(0, 3, soft.shape)
        drifted.append(reads_exactly(drawn, np.clip(noisy, 0, 255).astype(np.uint8)))
    assert np.mean(drifted) >= 0.95


def test_a_plain_background_holds_nothing():
    assert read(np.full((64, 64, 3), 60, np.uint8)) == []


def test_touching_objects_of_two_colours_are_two():
    image = np.full((64, 64, 3), 40.0)
    for colour, x in (("red", 22.0), ("blue", 38.0)):
        alpha = coverage("square", x, 32.0, 10.0)[..., None]
        image += alpha * (np.array(COLOURS[colour]) - image)
    assert [item.pair for item in read(image.astype(np.uint8))] == [("red", "square"), ("blue", "square")]


def test_a_shapeless_blob_has_low_confidence():
    image = np.full((64, 64, 3), 40, np.uint8)
    image[10:54, 30:34] = COLOURS["red"]
    (found,) = read(image)
    assert found.confidence < 0.7


def test_specks_are_ignored():
    image = render(scene(0, 0, objects=1)).copy()
    image[1:4, 1:4] = 255
    assert len(read(image)) == 1


def test_accepts_every_kind_of_image():
    pixels = render(scene(0, 3))
    floats = pixels.astype(np.float32) / 255
    expected = [item.pair for item in read(pixels)]
    chw = torch.from_numpy(pixels).permute(2, 0, 1)
    for image in (Image.fromarray(pixels), floats, chw, chw.float() / 255, chw.bfloat16() / 255):
        assert [item.pair for item in read(image)] == expected


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ([[0]], TypeError, "must be a PIL image, an array or a tensor; got list"),
        (np.zeros((64, 64, 3), np.int32), TypeError, "must be uint8 or floating; got int32"),
        (np.zeros((32, 64, 3), np.uint8), ValueError, r"must be 64x64 RGB; got \(32, 64, 3\)"),
        (torch.zeros(64, 64, 3), ValueError, r"must be 64x64 RGB; got \(64, 64, 3\)"),
        (np.full((64, 64, 3), -1.0), ValueError, r"float images lie in \[0, 1\]"),
        (np.full((64, 64, 3), np.nan), ValueError, r"float images lie in \[0, 1\]"),
    ],
)
def test_bad_images_say_what_is_wrong(image, error, message):
    with pytest.raises(error, match=message):
        read(image)
