"""How the soft-token benchmark teaches, reads and counts, on a run of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from weft.shapes.captions import Prompt, caption
from weft.shapes.rendering import render
from weft.shapes.vocabulary import COLOURS
from weft.shapes.world import Scene, SceneObject, scene
from weft.train import LoopConfig

GREY = (50, 50, 60)
ASKED = Prompt("a red circle and a green star", (("red", "circle"), ("green", "star")))


def item(shape: str, colour: str, x: float, y: float) -> SceneObject:
    return SceneObject(shape, colour, x, y, 10.0, COLOURS[colour])


def picture(*items: SceneObject) -> np.ndarray:
    return render(Scene(items, GREY))


CIRCLE, STAR = item("circle", "red", 18, 44), item("star", "green", 48, 16)


def test_what_is_read_in_a_picture() -> None:
    from benchmarks.efficacy.soft_tokens.summary import readings

    images = [
        picture(CIRCLE, STAR),
        picture(CIRCLE, STAR, item("square", "blue", 48, 48)),
        picture(CIRCLE, item("star", "blue", 48, 16)),
        picture(CIRCLE),
    ]
    assert readings(images, [ASKED] * 4, 1) == {
        "bound": [True, True, False, False],
        "correct": [True, False, False, False],
        "counted": [True, False, True, False],
    }


def test_diversity_is_the_distance_between_pictures_of_a_prompt() -> None:
    from benchmarks.efficacy.soft_tokens.summary import diversity

    black, white = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)
    assert diversity(np.stack([black, black, white, white]), 2) == [0.0, 0.0]
    assert diversity(np.stack([black, white, white, white]), 2) == pytest.approx([100.0, 0.0])


def test_all_prompts_together_leave_out_those_of_several_pictures() -> None:
    from benchmarks.efficacy.soft_tokens.experiment import together

    found = together({"a": {"bound": [True]}, "b": {"bound": [False]}, "c": {"bound": [True], "diversity": [1.0]}})
    assert found == {"bound": [True, False]}


def test_teaching_pairs_say_what_is_drawn() -> None:
    from benchmarks.efficacy.soft_tokens import training as soft_tokens_training

    row, one = soft_tokens_training.pair(5), scene(soft_tokens_training.SEED, 5)
    assert np.array_equal(np.asarray(row["image"]), render(one))
    rng = np.random.default_rng([soft_tokens_training.SEED, 5, 0])
    assert len(row["text"]) == soft_tokens_training.CAPTIONS and row["text"][0] == caption(one, rng)
    assert len(row["negatives"]) == soft_tokens_training.NEAR_MISSES
    assert not set(row["negatives"]) & set(row["text"])


def test_a_whole_run_is_kept_and_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.efficacy.soft_tokens import experiment as soft_tokens
    from benchmarks.efficacy.soft_tokens import training as soft_tokens_training

    loop = LoopConfig(steps=1, learning_rate=1e-2, batch_size=2)
    lesson = soft_tokens_training.Lesson("contrast", loop, 4)
    monkeypatch.setitem(soft_tokens.LESSONS, "sd1", {"contrast": lesson})
    monkeypatch.setitem(soft_tokens.SAMPLING, "sd1", soft_tokens.Sampling(steps=2))
    monkeypatch.setattr(soft_tokens, "Retrieval", lambda: soft_tokens_retrieval(groups=1, captions=2))
    options = soft_tokens.Options(models=("sd1",), one=2, two=0, three=0, several=1, kept=tmp_path)
    found, seconds = soft_tokens.measure("sd1", options)
    assert set(found) == {"base", "contrast"} and seconds["contrast"] > 0
    assert set(found["base"]) == {"one object", "two objects, four noises", "all", "held-out scenes"}
    assert len(found["contrast"]["two objects, four noises"]["bound"]) == 4
    assert len(found["contrast"]["two objects, four noises"]["diversity"]) == 1
    assert len(found["base"]["held-out scenes"]["retrieved"]) == 2

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert soft_tokens.measure("sd1", options) == (found, seconds)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before

    record = {
        "method": "SoftREPA",
        "models": {
            "sd1": {
                "sampling": {"steps": 2, "guidance": 4.0},
                "seconds": seconds,
                "results": soft_tokens.MEASURES.summarise(found),
            }
        },
        "circumstances": {"date": "2026-01-01T00:00:00", "commit": "abc"},
    }
    text = soft_tokens.table(json.loads(json.dumps(record)))
    assert "| contrast | all | 2 |" in text and "| base | held-out scenes | 2 |" in text


def soft_tokens_retrieval(groups: int, captions: int) -> object:
    from benchmarks.efficacy.soft_tokens.retrieval import Retrieval

    return Retrieval(groups=groups, captions=captions, times=(0.5,))


@pytest.mark.parametrize("model", ["sd1", "sd3"])
def test_a_denoiser_knows_its_own_caption_more_often_than_chance(model: str) -> None:
    from benchmarks.efficacy.soft_tokens.retrieval import Retrieval
    from weft.shapes.load import pipeline

    hits = Retrieval(groups=3, captions=4).hits(pipeline(model))  # type: ignore[call-overload]
    assert len(hits) == 12 and sum(hits) >= 7  # chance 3
