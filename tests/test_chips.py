"""A small part of the tests as on every weaker processor that this one can stand for; ``make chips`` runs more."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("chips.py")
CHIPS = runpy.run_path(str(SCRIPT))
USABLE = [chip.weft for chip in CHIPS["usable"]()]


def test_paths_exist() -> None:
    tests = SCRIPT.parent
    assert all((tests / path).exists() for path in (*CHIPS["QUICK"], *CHIPS["NUMERIC"]))


# the last one is this processor as it is, on which the whole suite runs
@pytest.mark.long
@pytest.mark.skipif(len(USABLE) < 2, reason="this processor can stand for no weaker one")
@pytest.mark.parametrize("chip", USABLE[:-1])
def test_as_on(chip: str) -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--chip", chip, "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
