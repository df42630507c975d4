"""``weft train soft-tokens`` and ``weft train residual`` with fake-to-fake and fake-to-real, on the embedded model."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from transformers import ViTConfig, ViTModel

import weft
from weft import cli
from weft.commands.distribution import DistributionOptions, distribution_of
from weft.train.distribution_config import DistributionConfig

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
@pytest.mark.parametrize("through", ["x0", "chain"])
def test_trains_with_the_losses(what: str, through: str, pairs: Path) -> None:
    rows = trained(what, pairs, "--losses", "f2f,f2r", "--through", through, "--chain-steps", "2")
    assert rows and all(row["f2f"] > 0 and row["f2r"] > 0 and row["distribution"] > 0 for row in rows)


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
    assert distribution_of(DistributionOptions()) == DistributionConfig()
    given = {"losses": "f2f", "losses_weight": 2.0, "pairing": "two_noises", "through": "chain", "chain_steps": 7}
    assert {*given, "features"} == {field.name for field in fields(DistributionOptions)}
    made = distribution_of(DistributionOptions(**given))  # type: ignore[arg-type]
    assert (made.weight, made.pairing, made.through, made.chain_steps) == (2.0, "two_noises", "chain", 7)
    assert [loss.name for loss in made.losses] == ["f2f"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--losses", "f2x"], "f2f and f2r with a comma between; got 'f2x', of which 'f2x' is unknown"),
        (["--losses", "f2f", "--features", "nowhere"], "must hold config.json; there is none in nowhere"),
        (["--losses", "f2f", "--chain-steps", "0"], "`distribution.chain_steps` must be a whole number, at least 1"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str], message: str, pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(pairs.parent / "out" / "soft.safetensors")]
    with pytest.raises(SystemExit):
        cli.main(["train", "soft-tokens", "--pairs", str(pairs), *out, "--batch-size", "2", *arguments])
    assert message in capsys.readouterr().err
