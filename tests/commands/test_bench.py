"""``weft bench``: reaches the benchmarks of a clone, says where they are otherwise, hands tuning to the kernels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import weft
from weft.cli import main
from weft.commands import bench

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def launched(monkeypatch):
    """What would be run, and with which exit status it ends."""
    found = SimpleNamespace(command=[], cwd=None, status=0)

    def run(command, cwd, check):
        found.command, found.cwd = command, cwd
        return SimpleNamespace(returncode=found.status)

    monkeypatch.setattr(subprocess, "run", run)
    return found


def test_options_after_two_dashes_reach_the_benchmarks(launched):
    main(["bench", "attention", "--quick", "--", "--dtype", "bf16", "--mode", "edit_maps"])
    options = ["attention", "--quick", "--dtype", "bf16", "--mode", "edit_maps"]
    assert launched.command == [sys.executable, "-m", "benchmarks.run", *options]
    assert launched.cwd == ROOT


def test_a_failure_is_passed_on(launched):
    launched.status = 3
    with pytest.raises(SystemExit) as error:
        main(["bench", "attention"])
    assert error.value.code == 3


def test_an_unknown_op_is_refused_by_the_benchmarks(capfd):
    with pytest.raises(SystemExit) as error:
        main(["bench", "attension"])
    assert error.value.code == 1
    assert "`op` must be one of attention" in capfd.readouterr().err


def test_an_installed_package_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weft, "__file__", str(tmp_path / "site-packages" / "weft" / "__init__.py"))
    with pytest.raises(SystemExit) as error:
        main(["bench", "attention"])
    assert error.value.code == 2
    said = capsys.readouterr().err
    assert "needs a clone of the repository" in said and "`pip install -e .` in a clone" in said


def test_tuning_is_handed_to_the_kernels(monkeypatch):
    pytest.importorskip("weft.kernels.attention.tune")
    asked = []
    monkeypatch.setattr("weft.kernels.attention.tune.main", lambda **how: asked.append(how))
    main(["bench", "attention", "--tune", "--quick"])
    assert asked == [{"quick": True}]


def test_tuning_without_a_gpu_says_so(monkeypatch, capsys):
    monkeypatch.setattr("weft.kernels.attention.tune_measure.refuse_device", lambda: "needs a GPU")
    with pytest.raises(SystemExit) as error:
        main(["bench", "attention", "--tune"])
    assert error.value.code == 2 and "attention: tuning needs a GPU" in capsys.readouterr().err


@pytest.mark.parametrize("op", ["attension", "attention.fwd", "../attention", ""])
def test_tuning_what_has_no_tiles(op):
    with pytest.raises(ValueError, match="needs an op with Triton tiles, such as attention"):
        bench.tune(bench.Bench(op, tune=True))


def test_tuning_takes_no_options_of_a_measurement():
    with pytest.raises(ValueError, match="takes no options of a measurement; got --dtype bf16"):
        bench.tune(bench.Bench("attention", ("--dtype", "bf16"), tune=True))
