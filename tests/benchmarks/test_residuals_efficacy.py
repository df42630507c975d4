"""How the residuals benchmark asks, compares, keeps and counts; its pictures take an hour and are not made here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weft.shapes.captions import Prompt
from weft.shapes.concepts import Concept, Finish, render_concept
from weft.shapes.rendering import render
from weft.shapes.vocabulary import COLOURS
from weft.shapes.world import Scene, SceneObject
from weft.testing import assert_differs

BALL = Concept("circle", Finish("side by side", "red", "white"))
GREY = (50, 50, 60)


def item(shape: str, colour: str, x: float, y: float, size: float = 10.0) -> SceneObject:
    return SceneObject(shape, colour, x, y, size, COLOURS[colour])


def scene_of(*items: SceneObject, background: tuple[int, int, int] = GREY) -> np.ndarray:
    return render(Scene(items, background))


PLAIN = scene_of(item("circle", "red", 18, 44, 12), item("star", "green", 48, 16))


def with_ball(image: np.ndarray, background: tuple[int, int, int] = GREY) -> np.ndarray:
    """The left lower quarter of ``image`` exchanged for one that shows the ball."""
    image = image.copy()
    image[28:, :36] = render_concept(BALL, 18, 44, 12, background)[28:, :36]
    return image


def test_prompts_name_strangers_beside_the_concept_in_both_orders() -> None:
    from benchmarks.efficacy.residuals.trials import Trial

    found = Trial("beside", 1, 20).prompts(BALL, 7)
    assert found == Trial("beside", 1, 40).prompts(BALL, 7)[:20] != Trial("beside", 1, 20).prompts(BALL, 8)
    assert {prompt.text.startswith("a sks red circle and a") for prompt in found} == {True, False}
    for prompt in found:
        own, (colour, shape) = prompt.objects
        assert own == BALL.pair and colour not in ("red", "white") and shape != "circle"
        assert "sks red circle" in prompt.text and f"{colour} {shape}" in prompt.text
    assert {prompt.text for prompt in Trial("alone", 0, 3).prompts(BALL, 7)} == {"a sks red circle"}


def preserved(image: np.ndarray) -> Any:
    from benchmarks.efficacy.residuals.preservation import Seen
    from benchmarks.efficacy.residuals.preservation import preserved as compare

    return compare(Seen.of(PLAIN, BALL), Seen.of(image, BALL), BALL)


def test_a_concept_in_the_place_of_its_class_leaves_all_else() -> None:
    found = preserved(with_ball(PLAIN))
    assert found.ground and found.others and found.change < 0.1


@pytest.mark.parametrize(
    ("image", "ground", "others"),
    [
        (
            scene_of(item("circle", "red", 18, 44, 12), item("star", "green", 48, 16), background=(80, 50, 60)),
            False,
            True,
        ),
        (scene_of(item("circle", "red", 18, 44, 12), item("star", "green", 48, 30)), True, False),
        (scene_of(item("circle", "red", 18, 44, 12), item("star", "blue", 48, 16)), True, False),
        (scene_of(item("circle", "red", 18, 44, 12)), True, False),
    ],
    ids=["another background", "moved", "recoloured", "lost"],
)
def test_what_changed_elsewhere_is_seen(image: np.ndarray, ground: bool, others: bool) -> None:
    found = preserved(image)
    assert (found.ground, found.others) == (ground, others)
    assert found.change > 1.0


def test_without_other_objects_there_is_none_to_keep() -> None:
    from benchmarks.efficacy.residuals.preservation import Seen
    from benchmarks.efficacy.residuals.preservation import preserved as compare

    alone = Seen.of(scene_of(item("circle", "red", 18, 44, 12)), BALL)
    assert compare(alone, Seen.of(render_concept(BALL, 18, 44, 12, GREY), BALL), BALL).others is None


def test_boxes_hold_the_object_of_the_class() -> None:
    from benchmarks.efficacy.residuals.preservation import Seen
    from benchmarks.efficacy.residuals.trials import class_boxes

    lost = scene_of(item("star", "green", 48, 16))
    (left, top, right, bottom), everywhere = class_boxes([Seen.of(PLAIN, BALL), Seen.of(lost, BALL)], BALL)
    assert left <= 6 and right >= 30 and top <= 32 and bottom >= 56 and right < 40
    assert everywhere == (0, 0, 64, 64)


class Painter:
    """A pipeline whose pictures show which noise they came from, and which remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, prompts: list[str], *, generator: list[Any], **arguments: Any) -> Any:
        self.asked.append(prompts)
        images = np.stack([np.full((64, 64, 3), noise.initial_seed() % 97 / 97) for noise in generator])
        return type("Output", (), {"images": images})


def test_pictures_that_are_kept_are_not_drawn_again(tmp_path: Path) -> None:
    from benchmarks.efficacy.residuals.trials import Taught, Trial, Variant, draw
    from benchmarks.efficacy.trials import Sampling

    taught, sampling = Taught(BALL, None, {}), Sampling(steps=1, batch=2)  # type: ignore[arg-type]

    def drawn(painter: Painter, images: int, name: str) -> np.ndarray:
        prompts, seen = Trial("beside", 1, images).prompts(BALL, 7), []
        found = draw(painter, taught, Variant("none"), prompts, None, sampling, tmp_path / name, seen.append)  # type: ignore[arg-type]
        assert sum(seen) == images
        return found

    whole = drawn(Painter(), 5, "whole.npy")
    drawn(Painter(), 2, "cut.npy")
    second, third = Painter(), Painter()
    assert np.array_equal(drawn(second, 5, "cut.npy"), whole)
    assert [len(prompts) for prompts in second.asked] == [2, 1]
    assert np.array_equal(drawn(third, 3, "cut.npy"), whole[:3]) and third.asked == []


def test_a_lora_is_taught_and_the_model_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers, and that it changes what is predicted while it is attached and no longer."""
    import torch

    from benchmarks.efficacy.residuals import adapters
    from weft import shapes

    monkeypatch.setattr(adapters, "LOOP", replace(adapters.LOOP, steps=2, batch_size=1))
    pipe = shapes.pipeline()
    names = [name for name, _ in pipe.unet.named_modules()]
    tensors = adapters.lora_of(pipe, BALL, tmp_path / "lora.safetensors")
    assert adapters.numbers(tensors.values()) == 11_872

    def predicted() -> Any:
        with torch.no_grad():
            return pipe.unet(torch.ones(1, 4, 16, 16), 500, torch.ones(1, 77, 128)).sample

    plain = predicted()
    with adapters.lora_attached(pipe, tensors):
        assert_differs(predicted(), plain)
    assert torch.equal(predicted(), plain)
    assert [name for name, _ in pipe.unet.named_modules()] == names


def test_readings_and_differences_are_those_of_pairs() -> None:
    from benchmarks.efficacy.residuals.preservation import Seen
    from benchmarks.efficacy.residuals.summary import MEASURES, readings, table

    prompts = [Prompt("a sks red circle and a green star", (BALL.pair, ("green", "star")))] * 2
    plain = [Seen.of(PLAIN, BALL)] * 2
    drawn = {
        "base": [PLAIN, PLAIN],
        "everywhere": [with_ball(scene_of(background=(90, 60, 50)), (90, 60, 50))] * 2,
        "LAG, median": [with_ball(PLAIN), PLAIN],
    }
    found = {name: {"beside": readings(images, plain, prompts, BALL)} for name, images in drawn.items()}
    assert found["everywhere"]["beside"]["others"] == [False, False]
    results = MEASURES.summarise(found)
    base, everywhere, localized = (results[name]["beside"] for name in drawn)
    assert base["concept"]["value"] == 0 and base["other"]["value"] == 1 and "ground" not in base
    assert (everywhere["concept"]["value"], everywhere["other"]["value"], everywhere["ground"]["value"]) == (1, 0, 0)
    assert localized["concept_difference"]["mean"] == -0.5 and localized["ground_difference"]["mean"] == 1
    assert localized["correct"]["hits"] == 1 and localized["change"]["value"] < 0.1
    record = {
        "method": "Personalized Residuals",
        "concepts": [str(BALL)],
        "training": {"pictures": 6, "steps": 1, "batch_size": 1},
        "sampling": {"steps": 20, "guidance": 4.0},
        "circumstances": {"date": "2026-11-22", "commit": "abc"},
        "reader": {how: {"value": 1.0, "low": 0.9, "high": 1.0} for how in ("drawn", "decoded")},
        "results": results,
    }
    assert "| LAG, median | beside | 2 | 50.0 [9.5, 90.5] (-50.0 [" in table(record)


def test_published_results_are_those_of_the_settings_in_force() -> None:
    """A table of other concepts or another training would describe something else."""
    from dataclasses import asdict

    from benchmarks.efficacy.residuals.experiment import CONCEPTS, OUT, VARIANTS, training

    record = json.loads(OUT.read_text())
    assert record["concepts"] == [str(concept) for concept in CONCEPTS]
    assert record["training"] == json.loads(json.dumps(training()))
    assert record["variants"] == {name: asdict(variant) for name, variant in VARIANTS.items()}
