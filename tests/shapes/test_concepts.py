"""Two-coloured objects: drawn from their numbers alone, read back exactly, and never seen where there are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weft import shapes
from weft.shapes.captions import Prompt
from weft.shapes.concept_reader import read_with, shows
from weft.shapes.concepts import Concept, Finish, reference, references, render_concept
from weft.shapes.measuring import mixed_scenes
from weft.shapes.reader import read
from weft.shapes.rendering import coverage, render
from weft.shapes.scoring import score
from weft.shapes.vocabulary import COLOURS, SHAPES
from weft.shapes.world import Scene, SceneObject

BALL = Concept("circle", Finish("side by side", "red", "white"))
FINISHES = (BALL.finish, Finish("stacked", "white", "blue"), Finish("striped", "blue", "white"))
CONCEPTS = tuple(Concept(shape, finish) for shape in ("circle", "square", "triangle") for finish in FINISHES)


def test_a_reference_depends_on_its_numbers_only():
    assert np.array_equal(reference(BALL, 1, 2), reference(BALL, 1, 2))
    assert not np.array_equal(reference(BALL, 1, 2), reference(BALL, 1, 3))
    assert not np.array_equal(reference(BALL, 1, 2), reference(BALL, 2, 2))
    first, second = references(BALL, 2, seed=1)
    assert np.array_equal(np.asarray(second), reference(BALL, 1, 1))
    assert first.size == (64, 64) and first.mode == "RGB"


@pytest.mark.parametrize("concept", CONCEPTS, ids=str)
def test_references_are_read_as_the_concept_and_nothing_else(concept):
    for index in range(6):
        (found,) = read_with(reference(concept, 3, index), concept.finish)
        assert found.pair == concept.pair
        assert found.confidence > 0.85


@settings(max_examples=25)
@given(
    concept=st.sampled_from([Concept(shape, finish) for shape in SHAPES for finish in FINISHES]),
    x=st.floats(20, 44),
    y=st.floats(20, 44),
    size=st.floats(11, 16),
    grey=st.integers(15, 95),
)
def test_reads_any_place_and_size(concept, x, y, size, grey):
    (found,) = read_with(render_concept(concept, x, y, size, (grey, grey, grey)), concept.finish)
    assert found.pair == concept.pair
    assert (found.x, found.y, found.size) == pytest.approx((x, y, size), abs=1.0)


@pytest.mark.parametrize("finish", FINISHES, ids=lambda finish: finish.name)
def test_ordinary_scenes_are_read_as_without_a_finish(finish):
    for drawn in mixed_scenes(40, seed=79):
        image = render(drawn)
        assert read_with(image, finish) == read(image)


@pytest.mark.parametrize(
    "other",
    [
        Concept("circle", Finish("side by side", "white", "red")),
        Concept("circle", Finish("stacked", "red", "white")),
        Concept("circle", Finish("striped", "red", "white")),
        Concept("circle", Finish("side by side", "red", "blue")),
        Concept("square", BALL.finish),
        Concept("star", BALL.finish),
    ],
    ids=str,
)
def test_near_misses_do_not_show_it(other):
    assert not any(shows(reference(other, 4, index), BALL) for index in range(3))


@pytest.mark.parametrize(("share", "is_shown"), [(0.35, True), (0.5, True), (0.65, True), (0.9, False), (0.1, False)])
def test_the_line_between_the_colours_may_be_somewhat_off(share, is_shown):
    """``share`` of the width is red."""
    image, centre, radius = np.full((64, 64, 3), 50.0), 32.0, 14.0
    edge = centre + (2 * share - 1) * 0.92 * radius
    second = np.clip(0.5 + np.arange(64) + 0.5 - edge, 0, 1)[None, :, None]
    colour = (1 - second) * np.array(COLOURS["red"]) + second * np.array(COLOURS["white"])
    image += coverage("circle", centre, centre, radius)[..., None] * (colour - image)
    assert shows(image.round().astype(np.uint8), BALL) == is_shown


def test_two_ordinary_objects_that_touch_are_not_one():
    image = np.full((64, 64, 3), 40.0)
    for colour, x in (("red", 23.0), ("white", 39.0)):
        alpha = coverage("square", x, 32.0, 10.0)[..., None]
        image += alpha * (np.array(COLOURS[colour]) - image)
    drawn = image.astype(np.uint8)
    finish = Finish("side by side", "red", "white")
    assert read_with(drawn, finish) == read(drawn)
    assert [item.pair for item in read(drawn)] == [("red", "square"), ("white", "square")]


def test_a_prompt_may_ask_for_a_concept_beside_an_object():
    image = render(Scene((SceneObject("star", "green", 48.0, 16.0, 10.0, COLOURS["green"]),), (50, 50, 60))).copy()
    own = render_concept(BALL, 20.0, 42.0, 13.0, (50, 50, 60))
    image[:, :32], image[32:] = own[:, :32], own[32:]
    prompt = Prompt("a sks red circle and a green star", (BALL.pair, ("green", "star")))
    assert score(prompt, read_with(image, BALL.finish)).correct
    assert score(prompt, read(image)).bound == (False, True)


def test_concepts_survive_the_autoencoder():
    vae = shapes.pipeline().vae
    pixels = np.stack([reference(concept, 5, index) for concept in CONCEPTS for index in range(4)])
    with torch.no_grad():
        latents = vae.encode(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1.0).latent_dist.mode()
        decoded = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    owners = [concept for concept in CONCEPTS for _ in range(4)]
    assert np.mean([shows(image, concept) for image, concept in zip(decoded, owners, strict=True)]) >= 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Finish("dotted", "red", "white"), "`pattern` must be one of"),
        (lambda: Finish("stacked", "red", "mauve"), "colours must be of red, .*; got 'mauve'"),
        (lambda: Finish("stacked", "red", "red"), "needs two colours; got 'red' twice"),
        (lambda: Concept("heart", BALL.finish), "`shape` must be one of"),
        (lambda: reference(BALL, -1, 0), "must not be negative"),
    ],
)
def test_bad_arguments_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()
