"""``weft train`` as a user meets it: what it writes, how it goes on, and what it says when it cannot."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from records import changed

import weft
from weft import cli, shapes
from weft.commands.train_residual import TrainResidual, train_residual
from weft.train.residual.objective import ResidualObjective

pytestmark = pytest.mark.usefixtures("quiet_machine")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures of a thing the model has never seen: a circle of two colours."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        picture = Image.new("RGB", (64, 64), (40, 60 + 20 * number, 70))
        pen = ImageDraw.Draw(picture)
        pen.pieslice((14, 14, 50, 50), 90, 270, fill=(220, 40, 40))
        pen.pieslice((14, 14, 50, 50), 270, 90, fill=(245, 245, 245))
        picture.save(folder / f"{number}.png")
    return folder


def options(photos: Path, **changes: Any) -> TrainResidual:
    standard = TrainResidual(images=photos, class_word="circle", out=photos.parent / "two.safetensors")
    return changed(standard, **{"steps": 3, "batch_size": 1, **changes})


def test_writes_a_residual_that_stock_diffusers_reads(photos: Path) -> None:
    said = train_residual(options(photos, validate_every=3))
    assert "7,680 numbers in 7 layers" in said and 'say "V* circle" in a prompt' in said
    path = photos.parent / "two.safetensors"
    residual, pipe = weft.Residual.load(path), shapes.pipeline()
    residual.check_fits(pipe)
    assert (residual.phrase, residual.base_name) == ("V* circle", "embedded")
    assert set(residual.ranks.values()) == {4, 6}
    run = photos.parent / "two.run"
    assert {entry.name for entry in run.iterdir()} == {"config.json", "checkpoint.pt", "log.jsonl", "validation"}
    pipe.load_lora_weights(str(path))
    assert pipe.get_active_adapters() == ["default_0"]


def test_ctrl_c_exits_cleanly_and_resume_ends_with_the_same_bits(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos.parent
    train_residual(options(photos, out=folder / "straight.safetensors"))
    forward, calls = ResidualObjective.forward, []

    def forward_with_signal(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(*arguments)

    command = ["train", "residual", "--images", str(photos), "--class-word", "circle", "--steps", "3"]
    command += ["--batch-size", "1", "--out", str(folder / "cut.safetensors")]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(ResidualObjective, "forward", forward_with_signal)
        cli.main(command)
    assert stop.value.code == 130
    assert "weft: residual: stopped at step 2 of 3; " in capsys.readouterr().err
    assert not (folder / "cut.safetensors").exists()
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    assert stop.value.code == 2
    assert "is of an earlier run; resume it (--resume), or choose another folder" in capsys.readouterr().err
    cli.main([*command, "--resume"])
    cut, straight = (weft.Residual.load(folder / f"{name}.safetensors") for name in ("cut", "straight"))
    assert all(torch.equal(cut.up[name], straight.up[name]) for name in cut.up)
    assert all(torch.equal(cut.down[name], straight.down[name]) for name in cut.down)


def test_a_loss_that_is_not_finite_is_one_line_and_status_2(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = ResidualObjective.forward
    monkeypatch.setattr(
        ResidualObjective,
        "forward",
        lambda *arguments: {name: loss * float("nan") for name, loss in forward(*arguments).items()},
    )
    out = photos.parent / "never.safetensors"
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "residual", "--images", str(photos), "--class-word", "circle", "--out", str(out)])
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert (
        last == "weft: error: residual: the loss is nan at step 1; there is no checkpoint yet; lower the learning rate"
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "`steps` must be at least 1; got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be above 0"),
        ({"crops": 0}, "`crops` must be at least 1"),
        ({"class_word": " "}, "`class_word` must be text that the model's tokenizer knows"),
        ({"out": Path("two.ckpt")}, "--out must be a file that ends in .safetensors; got two.ckpt"),
        ({"model": "./nowhere"}, "nowhere is not there"),
        ({"device": "tpu"}, "--device must be auto, cpu or cuda"),
    ],
    ids=["steps", "rate", "crops", "class-word", "out", "model", "device"],
)
def test_bad_option_is_one_clear_error(photos: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_residual(options(photos, **changes))
    assert not (photos.parent / "two.safetensors").exists()


def test_pictures_are_looked_at_first(photos: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        train_residual(options(photos, images=empty))
    (photos / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"broken\.png cannot be read as a picture"):
        train_residual(options(photos))
    assert not (photos.parent / "two.run").exists()


def test_the_embedded_model_is_trained_by_its_own_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "shapes", "--run", str(tmp_path / "run"), "--stages", "--cpu", "--precision", "no"])
    assert capsys.readouterr().out.startswith("trained: ")
    assert (tmp_path / "run" / "config.json").is_file()
