"""``weft train gan`` as a user meets it: what it writes, how it goes on, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from weft import cli
from weft.train import Generator
from weft.train.gan.objective import GanObjective

pytestmark = pytest.mark.usefixtures("quiet_machine")

SHORT = ["--steps", "2", "--matching-steps", "1", "--batch-size", "2", "--scenes", "6", "--sample-every", "2"]


def command(out: Path, *more: str) -> list[str]:
    return ["train", "gan", "--out", str(out), *SHORT, *more]


@pytest.mark.parametrize("baseline", ["ssa", "attn"])
def test_writes_a_generator_and_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], baseline: str) -> None:
    cli.main(command(tmp_path / "gan", "--baseline", baseline, "--losses", "f2f,f2r"))
    assert f"({baseline}, losses f2f,f2r, " in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "gan").iterdir()} == {"generator.safetensors", "config.json"}
    run = tmp_path / "gan.run"
    kept = {"checkpoint.pt", "config.json", "log.jsonl", "matching", "samples"}
    assert {path.name for path in run.iterdir()} == kept
    assert (run / "samples" / "step000002.png").is_file()
    assert json.loads((run / "config.json").read_text())["baseline"] == baseline
    drawn = Generator.load(tmp_path / "gan").pictures(["a red circle"])
    assert [picture.size for picture in drawn] == [(64, 64)]


def test_what_is_asked_for_is_what_is_trained(tmp_path: Path) -> None:
    asked = ["--baseline", "attn", "--style-blocks", "--resolution", "80", "--length", "5", "--losses", "f2r"]
    cli.main(command(tmp_path / "gan", *asked, "--no-symmetric", "--class-mask", "False", "--max-skipped", "3"))
    record = json.loads((tmp_path / "gan.run" / "config.json").read_text())
    assert (record["resolution"], record["recipe"]["style_blocks"], record["max_skipped"]) == (80, True, 3)
    assert [(loss["symmetric"], loss["class_mask"]) for loss in record["losses"]] == [(False, False)]
    assert json.loads((tmp_path / "gan.run" / "matching" / "matching.json").read_text())["reads"] == 5
    assert Generator.load(tmp_path / "gan").pictures(["a red circle"])[0].size == (80, 80)


def test_ctrl_c_exits_cleanly_and_resume_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(command(tmp_path / "straight"))
    forward, calls = GanObjective.forward, []

    def forward_with_signal(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(*arguments)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(GanObjective, "forward", forward_with_signal)
        cli.main(command(tmp_path / "cut"))
    assert stop.value.code == 130
    assert "weft: gan: stopped at step 1 of 2; " in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(command(tmp_path / "cut"))
    assert stop.value.code == 2
    assert "is of an earlier run; resume it (--resume), or choose another folder" in capsys.readouterr().err
    cli.main(command(tmp_path / "cut", "--resume"))
    straight, cut = (Generator.load(tmp_path / name).network.state_dict() for name in ("straight", "cut"))
    assert all(torch.equal(cut[key], value) for key, value in straight.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-size", "1"), "`batch_size` must be at least 2"),
        (("--losses", "f2g"), "'f2g' is unknown"),
        (("--f2r-weight", "2"), "--f2r-weight must go with --losses f2r; got --losses none"),
        (("--losses", "f2r", "--no-both-views"), "--no-both-views must go with --losses f2f; got --losses f2r"),
        (("--class-mask", "False"), "train gan: --class-mask must go with --losses f2f or f2r; got --losses none"),
        (("--data", "nowhere"), "there is none at nowhere"),
        (("--matching-folder", "nowhere"), "`matching_folder` must hold matching.safetensors"),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(command(tmp_path / "gan", *options))
    assert stop.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.glob("gan/*"))
