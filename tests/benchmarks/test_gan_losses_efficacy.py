"""How the benchmark of losses for GANs finds runs, evaluates them once, sums up over seeds and shows them."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.efficacy.gan_losses import runs as gan_runs
from benchmarks.efficacy.gan_losses.experiment import Options, Run, measure, runs_of
from benchmarks.efficacy.gan_losses.picture import Picture, sheet
from benchmarks.efficacy.gan_losses.summary import summarise, table
from weft.commands.sheets import CAPTION, TILE
from weft.evaluation import Plan
from weft.train.gan.config import RECIPES, GanConfig, MatchingRecipe
from weft.train.gan.generator import Generator, network_of
from weft.train.gan.text import Recurrent, Vocabulary

NAMES = ("ssa-none-0", "ssa-f2f,f2r-0", "ssa-none-1", "ssa-f2f,f2r-1", "attn-f2r-0")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained generators, and the folders of checkpoints beside trained ones."""
    folder = tmp_path_factory.mktemp("runs")
    for number, name in enumerate(NAMES):
        torch.manual_seed(number)
        baseline: Any = name.split("-")[0]
        recipe = replace(RECIPES[baseline, "cpu"], generator_width=2, hidden=8)
        record = GanConfig(baseline=baseline, recipe=recipe).record(text_width=16)
        text = Recurrent(Vocabulary(["a", "red", "circle"], 8), width=16, embedding=8, dropout=0.0)
        Generator(network_of(record), text, record).save(folder / name)
        (folder / f"{name}.run").mkdir()
    return folder


def test_runs_are_known_by_their_names(runs: Path) -> None:
    found = [(run.baseline, run.losses, run.seed) for run in runs_of(runs)]
    assert found == [
        ("attn", "f2r", 0),
        ("ssa", "none", 0),
        ("ssa", "none", 1),
        ("ssa", "f2f,f2r", 0),
        ("ssa", "f2f,f2r", 1),
    ]
    assert Run.of(Path("ssa-f2f,f2r-12"), "weak") == Run(Path("ssa-f2f,f2r-12"), "ssa", "f2f,f2r", 12, "weak")


@pytest.mark.parametrize("name", ["ssa", "ssa-none", "ssa-f2x-0", "ssa-both-0", "ssa-none-last"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"must be named BASELINE-LOSSES-SEED.*; got {name}"):
        Run.of(Path(name))


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must hold folders of trained generators"):
        runs_of(tmp_path)


@pytest.mark.long
def test_a_benchmark_of_seconds(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(runs, plan=Plan(count=196, groups=2, paraphrases=2, noises=2), kept=tmp_path / "kept")
    # the reader is the slow part and tested elsewhere
    monkeypatch.setattr("weft.evaluation.observing.read", lambda image: [])
    record = measure(options)
    assert len(list(options.kept.glob("*.json"))) == len(NAMES)
    rows = {(row["baseline"], row["losses"]): row for row in record["results"]}
    assert rows["ssa", "none"]["seeds"] == [0, 1]
    assert rows["ssa", "f2f,f2r"]["fid"]["difference"]["count"] == 2
    assert "difference" not in rows["attn", "f2r"]["fid"]
    # untrained generators are much farther from scenes than other scenes are
    assert rows["ssa", "none"]["fid"]["mean"] > 3 * record["runs"][0]["measures"]["fid"]["floor"]
    text = table({**record, "circumstances": {"date": "2026-01-01T00", "commit": "abc"}})
    assert text.count("\n| ssa |") == 2
    assert "Two sets of real scenes are this far apart: FID " in text
    assert "weights " + record["extractor"]["weights"] in text

    def never(*arguments: Any) -> Any:
        raise AssertionError("drawn again")

    monkeypatch.setattr(Generator, "load", never)
    assert measure(options) == json.loads(json.dumps(record))


def test_the_table_says_what_was_measured_and_no_more() -> None:
    absent = {"absent": "the extractor embeds no texts"}
    record = {
        "method": "losses",
        "circumstances": {},
        "plan": {"count": 8, "groups": 1, "paraphrases": 1, "noises": 1},
        "extractor": {"name": "dino", "weights": "1234", "resize": "none"},
        "runs": [{"measures": {"cmmd": {"value": 1.0, "floor": 0.25}, "retrieval": absent, "diversity": absent}}],
        "results": [],
    }
    text = table(record)
    assert "this far apart: CMMD 0.25." in text and "R-precision of" not in text and "no loss has used" not in text


def test_differences_are_taken_seed_by_seed() -> None:
    def run(losses: str, seed: int, value: float, **more: str) -> dict[str, Any]:
        return {"baseline": "ssa", "losses": losses, "seed": seed, "measures": {"fid": {"value": value}}, **more}

    plain, both, other = summarise(
        [
            run("none", 0, 10),
            run("none", 1, 30),
            run("f2f", 0, 9),
            run("f2f", 1, 28),
            run("f2f", 1, 33, variant="weak"),
        ]
    )
    assert (other["variant"], other["fid"]["difference"]["mean"]) == ("weak", 3)
    own = [run("none", 0, 10), run("none", 0, 5, variant="text"), run("f2f", 0, 6, variant="text")]
    assert summarise(own)[-1]["fid"]["difference"]["mean"] == 1
    assert plain["fid"] == {"mean": 20, "std": pytest.approx(200**0.5), "count": 2}
    assert both["fid"]["difference"] == {"mean": -1.5, "std": pytest.approx(0.5**0.5), "count": 2}
    assert "kid" not in both


def test_the_sheet_has_a_row_a_scene_and_run(runs: Path) -> None:
    found = sheet(Picture(runs, scenes=(0, 2), wordings=3, noises=2))
    assert isinstance(found, Image.Image)
    rows = 4  # two scenes, drawn by both runs of seed 0
    assert rows * (TILE + 2 * CAPTION) <= found.height <= rows * (TILE + 4 * CAPTION)
    assert found.width == 5 * TILE
    with pytest.raises(ValueError, match="has no run of attn and seed 7"):
        sheet(Picture(runs, baseline="attn", seed=7))


def test_a_series_of_runs_shares_one_matching_model_and_leaves_finished_ones_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = functools.partial(
        gan_runs.GanConfig, batch_size=2, matching=MatchingRecipe(width=16, steps=1, batch_size=4)
    )
    monkeypatch.setattr(gan_runs, "GanConfig", tiny)
    options = gan_runs.Options(("attn",), ("none", "f2f,f2r"), (0,), steps=1, scenes=8, captions=2, folder=tmp_path)
    first, second = (gan_runs.train(options, "attn", losses, 0) for losses in options.losses)
    assert not (tmp_path / "checkpoints" / second.name / "matching").exists()
    assert [run.losses for run in runs_of(tmp_path)] == ["none", "f2f,f2r"]
    written = (first / gan_runs.WEIGHTS).stat().st_mtime_ns
    assert gan_runs.train(options, "attn", "none", 0) == first
    assert (first / gan_runs.WEIGHTS).stat().st_mtime_ns == written
    # cut short before its end, a run leaves no half of the matching model, and no generator that seems finished
    copytree = gan_runs.shutil.copytree

    def cut_short(source: Path, target: Path, **options: Any) -> None:
        copytree(source, target, **options)
        raise KeyboardInterrupt

    other = replace(options, folder=tmp_path / "other")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(gan_runs.shutil, "copytree", cut_short)
        gan_runs.train(other, "attn", "none", 0)
    assert {path.name for path in other.folder.iterdir()} == {"checkpoints"}
    gan_runs.train(other, "attn", "none", 0)
    assert (other.folder / "matching" / "matching.safetensors").is_file()
