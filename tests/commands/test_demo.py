"""``weft demo`` and ``weft doctor`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from weft import cli
from weft.commands.demo import DEMO_PROMPTS


def test_demo_draws_times_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["demo", "--out", str(tmp_path), "--steps", "2", "--repeats", "1"])
    rows = json.loads((tmp_path / "demo.json").read_text())
    assert [row["prompt"] for row in rows] == list(DEMO_PROMPTS)
    for row in rows:
        assert min(row["stock_s"], row["weft_s"], row["maps_s"]) > 0
        assert row["largest_difference"] <= 1  # of 255, fp32 on a CPU
    sheet = Image.open(tmp_path / "demo.png")
    assert sheet.width > 3 * 64 and sheet.height > 3 * 64
    assert "largest pixel difference" in capsys.readouterr().out


def test_doctor_lists_backends_and_versions(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["doctor"])
    report = capsys.readouterr().out
    for word in ("torch", "diffusers", "cpu", "reference"):
        assert word in report
