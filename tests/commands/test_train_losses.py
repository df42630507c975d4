"""``weft train soft-tokens`` and ``weft train residual`` with fake-to-fake and fake-to-real, on the embedded model."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from records import changed
from transformers import ViTConfig, ViTModel

import weft
from weft import cli
from weft.commands.distribution import NamedLossesAndFeatures, with_losses
from weft.commands.train_residual import TrainResidual
from weft.train.distribution.config import DistributionConfig
from weft.train.distribution.kinds import FakeToFake, FakeToReal

pytestmark = pytest.mark.usefixtures("quiet_machine")

CAPTIONS = {"a": ("a red circle", "a picture of a red circle"), "b": ("a blue square", "a photo of a blue square")}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two pictures, each with two captions."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows = []
    for number, (name, captions) in enumerate(CAPTIONS.items()):
        picture = Image.new("RGB", (64, 64), (20, 30, 40))
        ImageDraw.Draw(picture).ellipse((10, 10, 30 + 20 * number, 30 + 5 * number), fill=(200, 30, 30))
        picture.save(folder / f"{name}.png")
        rows.append(json.dumps({"file_name": f"{name}.png", "text": captions}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def trained(what: str, pairs: Path, *arguments: str) -> list[dict[str, float]]:
    """The log of a run of two steps."""
    out = pairs.parent / "out" / "learnt.safetensors"
    given = {
        "soft-tokens": ["--pairs", str(pairs), "--negatives", "1"],
        "residual": ["--images", str(pairs), "--class-word", "circle"],
    }[what]
    command = ["train", what, *given, "--out", str(out), "--steps", "2", "--batch-size", "2", *arguments]
    cli.main(command)
    (weft.SoftTokens if what == "soft-tokens" else weft.Residual).load(out)
    return [json.loads(row) for row in (out.with_suffix(".run") / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("what", ["soft-tokens", "residual"])
@pytest.mark.parametrize("through", [("x0",), ("chain", "--chain-steps", "2")])
def test_trains_with_the_losses(what: str, through: tuple[str, ...], pairs: Path) -> None:
    weights = "--losses-weight", "2", "--f2f-weight", "0.5", "--f2r-weight", "3"
    rows = trained(what, pairs, "--losses", "f2f,f2r", "--through", *through, *weights)
    assert rows and all(row["f2f"] > 0 and row["f2r"] > 0 for row in rows)
    for row in rows:
        assert row["distribution"] == pytest.approx(2 * (0.5 * row["f2f"] + 3 * row["f2r"]), rel=1e-3)


def test_a_folder_gives_the_features(pairs: Path) -> None:
    folder = pairs.parent / "vision"
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(**size, image_size=16, patch_size=8)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text("{}")
    rows = trained("soft-tokens", pairs, "--losses", "f2r", "--features", str(folder))
    assert all(row["f2r"] > 0 and "f2f" not in row for row in rows)
    identity = json.loads((pairs.parent / "out" / "learnt.run" / "config.json").read_text())
    assert identity["distribution"]["losses"][0]["features"] == str(folder)


def test_names_become_losses() -> None:
    """Each number reaches the loss that it is of."""
    term = DistributionConfig(weight=2.0, through="chain", chain_steps=7)
    given = {"losses": "f2f,f2r", "pairing": "two_noises", "symmetric": False, "class_mask": False}
    given |= {"f2f_weight": 0.7, "f2f_temperature": 0.4, "f2r_weight": 0.8, "f2r_temperature": 0.3}
    assert {*given, "features"} == {field.name for field in fields(NamedLossesAndFeatures)}
    losses = (
        FakeToFake("two_noises", temperature=0.4, weight=0.7, class_mask=False),
        FakeToReal(temperature=0.3, weight=0.8, symmetric=False, class_mask=False),
    )
    named = NamedLossesAndFeatures(**given)  # type: ignore[arg-type]
    assert with_losses(term, named, who="train") == replace(term, losses=losses)
    assert with_losses(DistributionConfig(), NamedLossesAndFeatures(), who="train") == DistributionConfig()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"f2f_weight": 1.0}, "--f2f-weight must go with --losses f2f; got --losses none; name it there"),
        (
            {"features": Path("nowhere")},
            "--features must go with --losses f2f or f2r; got --losses none",
        ),
        ({"losses": "f2f", "symmetric": False}, "--no-symmetric must go with --losses f2r; got --losses f2f"),
        (
            {"losses": "f2r", "f2f_temperature": 0.0, "pairing": "two_noises"},
            "--f2f-temperature, --pairing must go with --losses f2f; got --losses f2r",
        ),
        ({"losses": "f2f", "chain_steps": 7}, "--chain-steps must go with --through chain; got --through x0"),
    ],
)
def test_what_nothing_reads_is_refused(given: dict[str, Any], message: str) -> None:
    options = changed(TrainResidual(images=Path("photos"), class_word="circle"), **given)
    with pytest.raises(ValueError, match=f"train residual: {message}"):
        with_losses(options.config.distribution, options.named, who="train residual")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--losses", "f2x"], "f2f and f2r with a comma between; got 'f2x', of which 'f2x' is unknown"),
        (["--losses", "f2f", "--features", "nowhere"], "must hold config.json; there is none in nowhere"),
        (
            ["--f2r-temperature", "0.2"],
            "train soft-tokens: --f2r-temperature must go with --losses f2r; got",
        ),
        (["--losses", "f2r", "--f2r-temperature", "0"], "FakeToReal: `temperature` must be above 0 and finite; got 0"),
        (
            ["--losses", "f2f", "--through", "chain", "--chain-steps", "0"],
            "`distribution.chain_steps` must be a whole number, at least 1",
        ),
    ],
)
def test_mistakes_are_reported_in_a_line(
    arguments: list[str], message: str, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(pairs.parent / "out" / "soft.safetensors")]
    with pytest.raises(SystemExit):
        cli.main(["train", "soft-tokens", "--pairs", str(pairs), *out, "--batch-size", "2", *arguments])
    assert message in capsys.readouterr().err
