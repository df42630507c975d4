"""What a number needs beside it: the device, the versions, the commit, the command."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from weft._native_loader import why_not_native

ROOT = Path(__file__).resolve().parents[2]
# what a change can make faster or slower; results are written by runs and say nothing about the code that ran
MEASURED = ("csrc", "kernels", "python/weft/ops", "benchmarks", ":!benchmarks/results")
PACKAGES = ("weft", "torch", "triton", "pytest-benchmark")


def circumstances(threads: int, program: str = "benchmarks.run") -> dict[str, Any]:
    """One flat record of a CPU and all else, the same for every line of a run of ``python -m program``."""
    return {
        **common(),
        "device": device_name(),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        # without the extension weft runs on its reference
        "native": why_not_native() is None,
        "load": round(os.getloadavg()[0], 2),
        "command": shlex.join(["python", "-m", program, *sys.argv[1:]]),
    }


def common() -> dict[str, Any]:
    """What any device's lines need: date, versions, commit."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no", "--", *MEASURED)),
    }


def month() -> str:
    """Part of the name of a file of results."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m")


def device_name() -> str:
    """The processor's name as the system gives it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def device_slug() -> str:
    """``device_name`` for a file name."""
    return re.sub(r"[^a-z0-9]+", "-", device_name().lower()).strip("-")


def version(package: str) -> str | None:
    """Installed version, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    ran = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return ran.stdout.strip() if ran.returncode == 0 else None
