"""Every Python block of the README runs as it is pasted, on the embedded models in place of released ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft import shapes

from .conftest import ROOT, blocks

# model id on the hub -> what is shipped
SHIPPED = {"stable-diffusion-v1-5/stable-diffusion-v1-5": shapes.model_path()}
BLOCKS = blocks(ROOT / "README.md", "python")


def test_there_are_examples() -> None:
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_example_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = BLOCKS[number]
    for name, folder in SHIPPED.items():
        code = code.replace(f'"{name}"', repr(str(folder)))
    monkeypatch.chdir(tmp_path)
    # alone: what an earlier block imported or made is not there
    exec(compile(code, f"README.md, example {number + 1}", "exec"), {})
    pictures = list(tmp_path.glob("*.png"))
    assert pictures and all(picture.stat().st_size > 100 for picture in pictures)
