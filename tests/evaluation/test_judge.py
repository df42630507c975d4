"""The shipped judge: how well it judges, on scenes that it was not taught with; and how it is taught and kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from weft.evaluation.judge.judge import FOLDER, PADDING, UNKNOWN, WEIGHTS, Judge, JudgeConfig, ids_of
from weft.evaluation.judge.lessons import Scenes, degraded, meaning_ids
from weft.evaluation.judge.train import JudgeTraining, quality, teach
from weft.shapes.rendering import render
from weft.shapes.world import scene
from weft.testing import assert_differs


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


def test_it_finds_captions_and_prefers_right_ones(judge: Judge) -> None:
    found = quality(judge, examined=300, seed=123)
    for split in ("train", "test"):
        assert found[split]["r_precision"]["mean"] > 0.97
        assert found[split]["right_before_near_miss"]["value"] > 0.88


def test_an_untaught_one_finds_nothing() -> None:
    torch.manual_seed(0)
    found = quality(Judge().eval(), examined=300, seed=123)
    assert found["train"]["r_precision"]["mean"] < 0.08


def test_its_features_are_standardised(judge: Judge) -> None:
    pixels = torch.from_numpy(np.stack([render(scene(91, i)) for i in range(300)])).permute(0, 3, 1, 2) / 127.5 - 1
    features = judge.image(pixels)
    assert features.shape == (300, judge.num_features)
    assert features.mean().abs() < 0.1
    assert 0.7 < features.var(0).mean() < 1.4


def test_what_is_shipped_is_small_and_says_how_good_it_is() -> None:
    assert (FOLDER / WEIGHTS).stat().st_size < 1_000_000
    stated = json.loads((FOLDER / "quality.json").read_text())
    assert set(stated) == {"train", "test"}
    about = json.loads((FOLDER / "config.json").read_text())
    assert about["training"]["seed"] == JudgeTraining().seed


def test_embeddings_have_length_one_and_do_not_depend_on_the_batch(judge: Judge) -> None:
    texts = ["a red circle", "an orange star to the left of a blue ring", ""]
    together = judge.embed_texts(texts)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    for text, row in zip(texts, together, strict=True):
        torch.testing.assert_close(judge.embed_texts([text])[0], row, atol=1e-5, rtol=1e-4)


def test_words_have_numbers() -> None:
    ids = ids_of(["a red, circle", "blorp"])
    assert ids.shape == (2, 4)
    assert ids[0].min() > UNKNOWN
    assert ids[1].tolist() == [UNKNOWN, PADDING, PADDING, PADDING]
    assert ids_of([""]).tolist() == [[UNKNOWN]]
    assert ids_of(["red " * 99]).shape == (1, 32)


def test_saved_and_loaded_it_is_the_same_but_for_rounding(tmp_path: Path) -> None:
    torch.manual_seed(1)
    small = Judge(JudgeConfig(channels=(8, 8, 8), cell_channels=4, text_channels=16, embedding=8)).eval()
    small.save(tmp_path, note="small")
    again = Judge.load(tmp_path)
    assert again.config == small.config
    texts = ["a red circle", "a blue ring"]
    torch.testing.assert_close(again.embed_texts(texts), small.embed_texts(texts), atol=5e-3, rtol=0)
    with pytest.raises(FileNotFoundError, match=r"no judge in .*judge.train"):
        Judge.load(tmp_path / "nowhere")


@pytest.mark.long
def test_a_few_steps_teach_it_something() -> None:
    judge = teach(JudgeTraining(steps=60, batch_size=32, scenes=400, warmup=5, seed=5))
    assert quality(judge, examined=150, seed=6)["train"]["r_precision"]["mean"] > 0.1


def test_it_is_always_taught_the_same() -> None:
    config = JudgeTraining(steps=3, batch_size=8, scenes=16, seed=5)
    one, other = (teach(config).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert_differs(one["text.places"], Judge().state_dict()["text.places"])


def test_lessons() -> None:
    scenes = Scenes(40, seed=3)
    images, texts, meanings = scenes.batch(range(40), np.random.default_rng(0))
    assert images.shape == (40, 3, 64, 64)
    assert (images.min() >= -1) & (images.max() <= 1)
    assert len(texts) == len(meanings) == 80
    # a near miss names other objects than the scene has, or it would be no miss; exchanged order is not one
    assert (meanings[:40] != meanings[40:]).float().mean() > 0.95


def test_meanings_are_equal_where_texts_say_the_same() -> None:
    texts = ["a red circle and a blue ring", "a blue ring next to a red circle", "a red ring and a blue circle"]
    first, second, third = meaning_ids(texts).tolist()
    assert first == second != third


def test_degrading_is_slight_and_spares_some() -> None:
    clean = torch.from_numpy(render(scene(1, 1))).permute(2, 0, 1)[None].expand(64, -1, -1, -1) / 127.5 - 1
    changed = (degraded(clean, np.random.default_rng(0)) - clean).abs().mean((1, 2, 3))
    assert changed.max() < 0.25
    assert changed.min() < 0.02 < changed.median()
