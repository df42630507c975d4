"""``weft train soft-tokens`` and ``weft train residual`` with fake-to-fake and fake-to-real, on the embedded model."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from transformers import ViTConfig, ViTModel

import weft
from weft import cli
from weft.commands.distribution import DistributionOptions, distribution_of
from weft.commands.train_gan import TrainGan
from weft.train.distribution.config import DistributionConfig
from weft.train.distribution.losses import FakeToFake, FakeToReal, losses_named

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


def test_every_option_says_something() -> None:
    """The defaults are the configuration's; each other value reaches it."""
    assert distribution_of(DistributionOptions(), who="train") == DistributionConfig()
    both = distribution_of(DistributionOptions("f2f,f2r"), who="train")
    assert both == DistributionConfig(losses_named("f2f,f2r"))
    given = {"losses": "f2f,f2r", "losses_weight": 2.0, "pairing": "two_noises", "through": "chain", "chain_steps": 7}
    given |= {"f2f_weight": 0.7, "f2f_temperature": 0.4, "f2r_weight": 0.8, "f2r_temperature": 0.3, "symmetric": False}
    assert {*given, "features"} == {field.name for field in fields(DistributionOptions)}
    losses = (
        FakeToFake("two_noises", temperature=0.4, weight=0.7),
        FakeToReal(temperature=0.3, weight=0.8, symmetric=False),
    )
    made = distribution_of(DistributionOptions(**given), who="train")  # type: ignore[arg-type]
    assert made == DistributionConfig(losses, 2.0, through="chain", chain_steps=7)


def test_a_gan_has_the_same_options() -> None:
    """Those of the losses, that is: by the same names, with the same defaults."""
    mine, theirs = ({field.name: field.default for field in fields(of)} for of in (DistributionOptions, TrainGan))
    shared = mine.keys() & theirs.keys() - {"features"}
    assert {f"{name}_{number}" for name in ("f2f", "f2r") for number in ("weight", "temperature")} < shared
    assert {"losses", "pairing"} < shared
    assert {name: mine[name] for name in shared} == {name: theirs[name] for name in shared}


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
    with pytest.raises(ValueError, match=f"train residual: {message}"):
        distribution_of(DistributionOptions(**given), who="train residual")


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
def test_mistakes_are_told_in_a_line(
    arguments: list[str], message: str, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(pairs.parent / "out" / "soft.safetensors")]
    with pytest.raises(SystemExit):
        cli.main(["train", "soft-tokens", "--pairs", str(pairs), *out, "--batch-size", "2", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("what", ["soft-tokens", "residual"])
def test_the_help_has_whole_sentences(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the terminal is wide enough, a row ends with a default, or is an option with its help in the next row."""
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        cli.main(["train", what, "--help"])
    rows = [row.strip("│ ") for row in capsys.readouterr().out.splitlines()]
    first = next(number for number, row in enumerate(rows, 1) if row.startswith("-h, --help"))
    options = [row for row in rows[first:] if re.search(r"\w", row)]
    assert any(row.startswith("--f2f-temperature FLOAT") for row in options)
    assert not [row for row in options if not row.endswith(")") and not re.fullmatch(r"-\S+( \S+)*", row)]
