"""``weft bench``: measure an op from a clone of the repository, or tune its Triton tiles on the GPU that is here."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

import weft


@dataclass(frozen=True)
class Bench:
    """Measure an op beside its baselines, from a clone of the repository; or tune its Triton tiles."""

    op: tyro.conf.Positional[str]
    """Which op: attention."""
    arguments: tyro.conf.Positional[tuple[str, ...]] = ()
    """After `--`: options of `python -m benchmarks.run`, such as `-- --dtype bf16 --mode edit_maps`."""
    quick: bool = False
    """A tenth of the time, nothing to publish; with --tune, only tiles next to those in force."""
    tune: bool = False
    """Sweep the op's Triton tiles on this GPU and write its launch table, instead of measuring."""


def bench(options: Bench) -> int:
    """Carry out ``weft bench``; what is measured or tuned is printed as it comes.

    Returns:
        The exit status.

    Raises:
        ValueError: --tune for an op that has nothing to tune, or together with options of a measurement.
        FileNotFoundError: weft is installed without the benchmarks, which live in the repository alone.
        BackendUnavailableError: --tune without a GPU.
    """
    if options.tune:
        tune(options)
        return 0
    root = clone_of(Path(weft.__file__))
    quick = ["--quick"] if options.quick else []
    command = [sys.executable, "-m", "benchmarks.run", options.op, *quick, *options.arguments]
    return subprocess.run(command, cwd=root, check=False).returncode


def clone_of(package: Path) -> Path:
    """The repository that a file of ``python/weft`` lies in.

    Raises:
        FileNotFoundError: It lies in an installed package.
    """
    root = package.resolve().parents[2]
    if not (root / "benchmarks" / "run.py").is_file():
        raise FileNotFoundError(
            f"bench: needs a clone of the repository, for benchmarks are not installed; weft is imported from "
            f"{package.parent}: run `pip install -e .` in a clone, or `python -m benchmarks.run` at its top"
        )
    return root


def tune(options: Bench) -> None:
    """Hand over to ``weft.kernels.<op>.tune``."""
    if options.arguments:
        raise ValueError(f"bench: `--tune` takes no options of a measurement; got {' '.join(options.arguments)}")
    name = f"weft.kernels.{options.op}.tune"
    if not options.op.isidentifier() or not _exists(name):
        raise ValueError(f"bench: `--tune` needs an op with Triton tiles, such as attention; got {options.op!r}")
    # by name: commands know no kernels, and each op says whether it can be tuned
    importlib.import_module(name).main(quick=options.quick)


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
