"""Runs tests of a copy."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mutation.copy import WORK, Copy

COMPILE_ERROR = re.compile(r"\.(?:cpp|cu|cuh|h):\d+:\d+: (?:fatal )?error: .*")
OPTIONS = ("-x", "-q", "-rfE", "-p", "no:cacheprovider", "--no-header")


@dataclass(frozen=True)
class Run:
    """One run of pytest.

    Attributes:
        code: Its exit status; negative for a signal, None where it was stopped at the time limit.
        failed: The first test that failed, if any did.
        compile_error: What a compiler said that a test called.
    """

    code: int | None
    seconds: float
    failed: str = ""
    compile_error: str = ""


def load_libraries() -> None:
    """Import what most tests import, so that each run, a fork of this process, begins with it."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1", "HF_HUB_OFFLINE": "1"}
    import accelerate  # noqa: F401
    import diffusers
    import hypothesis
    import torch
    import transformers

    torch.set_num_threads(1)
    _ = diffusers.StableDiffusionPipeline, diffusers.StableDiffusion3Pipeline, diffusers.StableDiffusionXLPipeline
    _ = transformers.CLIPTextModel, transformers.CLIPTokenizer
    register = hypothesis.settings.register_profile
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)

    def plain(name: str, parent: hypothesis.settings | None = None, **values: object) -> None:
        # a failing example is enough: to make it small would take longer than to find it
        register(name, parent, **{**values, "phases": phases, "database": None, "derandomize": True})

    # past the class's own guard
    type.__setattr__(hypothesis.settings, "register_profile", staticmethod(plain))


def run_tests(copy: Copy, tests: str, limit: float, log: Path) -> Run:
    """Run tests until the first fails, for ``limit`` seconds at most; what they print goes to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _run_as_child(copy, tests, log)
    code = _exit_status(child, began + limit)
    seconds = time.monotonic() - began
    output = log.read_text(errors="replace")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    compiler = COMPILE_ERROR.search(output)
    return Run(code, seconds, failed[1] if failed else "", compiler[0] if compiler else "")


def _run_as_child(copy: Copy, tests: str, log: Path) -> None:
    """Never returns."""
    code = 1
    try:
        os.setpgrp()  # so that what tests start ends with them
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(copy.path)
        os.environ.update(copy.environment())
        sys.path[:0] = map(str, copy.python_path())
        sys.dont_write_bytecode = True
        import pytest

        code = int(pytest.main([*shlex.split(tests), *OPTIONS]))
        sys.stdout.flush()
    finally:
        os._exit(code)


def _exit_status(child: int, end: float) -> int | None:
    """Of the child, negative for a signal; None where it had to be stopped at ``end``."""
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def log_of(name: str) -> Path:
    """Where a run's output goes."""
    return WORK / "logs" / f"{name}.log"
