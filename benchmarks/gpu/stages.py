"""Stages of a run: a command in a process of its own, a budget of seconds, and what came of it.

A stage that fails, hangs or crashes the device's context costs the next ones nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu import lines

ROOT = Path(__file__).resolve().parents[2]
PASSED, FAILED, SKIPPED, OUT_OF_TIME = "passed", "failed", "skipped", "out of time"


@dataclass(frozen=True)
class Stage:
    """Something to run.

    Attributes:
        name: In the summary and of the log.
        command: Its words; "{seconds}" stands for the seconds it is given, "{lines}" for a file of its test lines.
        seconds: Its budget.
        usable: "" if it can run here, else why it cannot; asked just before.
        environment: Variables to set, or with None to leave out.
        reserve: Seconds that the command gets less than it is given, to end by itself.
        greedy: Whether it is given all the time that is left of the run, and not only its own.
        summarise: From all that it printed to one sentence; None for its last line.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    usable: Callable[[], str] = str
    environment: Mapping[str, str | None] = field(default_factory=dict)
    reserve: float = 0.0
    greedy: bool = False
    summarise: Callable[[str], str] | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a stage.

    Attributes:
        status: ``PASSED``, ``FAILED``, ``SKIPPED`` or ``OUT_OF_TIME``.
        summary: Counts of its tests, the last line that it printed, or why it was skipped.
        tests: Lines of its tests, if it ran any.
    """

    name: str
    status: str
    seconds: float
    summary: str
    command: str = ""
    tests: tuple[dict[str, object], ...] = ()

    @property
    def good(self) -> bool:
        return self.status in (PASSED, SKIPPED)


def run(stage: Stage, given: float, folder: Path) -> Outcome:
    """Run ``stage`` for ``given`` seconds at the most, its output shown and kept in ``folder``."""
    why = stage.usable()
    if why:
        return Outcome(stage.name, SKIPPED, 0.0, why)
    folder.mkdir(parents=True, exist_ok=True)
    log, found = (folder / f"{stage.name.replace(' ', '-')}{end}" for end in (".log", ".jsonl"))
    values = {"{seconds}": f"{max(given - stage.reserve, 1):.0f}", "{lines}": str(found)}
    command = [values.get(word, word) for word in stage.command]
    wanted = {**os.environ, "PYTHONUNBUFFERED": "1", **stage.environment}
    environment = {name: value for name, value in wanted.items() if value is not None}
    start = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = PASSED if process.wait(given) == 0 else FAILED
        except subprocess.TimeoutExpired:
            # the whole group: compilers and workers of pytest would go on without their parent
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = OUT_OF_TIME
    tests = tuple(lines.read(found))
    if "{lines}" in stage.command:
        summary = lines.count(list(tests))
    else:
        summary = (
            stage.summarise(log.read_text(errors="replace"))
            if stage.summarise and status == PASSED
            else _last_line(log)
        )
    if status == PASSED and "{lines}" in stage.command and not any(test["outcome"] == "passed" for test in tests):
        status, summary = FAILED, f"{summary}: nothing was tested"
    spent = time.monotonic() - start
    return Outcome(stage.name, status, spent, summary, _shown(command), tests)


def run_all(stages: tuple[Stage, ...], total: float, folder: Path) -> list[Outcome]:
    """Run every stage in turn, within ``total`` seconds altogether; prints each as it ends."""
    start = time.monotonic()
    outcomes = []
    for stage in stages:
        left = total - (time.monotonic() - start)
        given = left if stage.greedy else min(stage.seconds, left)
        print(f"\n=== {stage.name}: up to {max(given, 0):.0f} s", flush=True)
        if given < 1:
            outcome = Outcome(stage.name, OUT_OF_TIME, 0.0, "the stages before it took all the time")
        else:
            outcome = run(stage, given, folder)
        print(f"    {describe(outcome)}", flush=True)
        if not outcome.good:
            for line in _tail(folder / f"{stage.name.replace(' ', '-')}.log", 25):
                print(f"    | {line}", flush=True)
        outcomes.append(outcome)
    return outcomes


def describe(outcome: Outcome) -> str:
    return f"{outcome.status} in {outcome.seconds:.0f} s: {outcome.summary}"


def _shown(command: list[str]) -> str:
    """The command as a reader would type it: the interpreter by its name."""
    return " ".join("python" if word == sys.executable else word for word in command)


def _tail(path: Path, count: int) -> list[str]:
    return path.read_text(errors="replace").splitlines()[-count:] if path.exists() else []


def _last_line(path: Path) -> str:
    said = [line.strip() for line in _tail(path, 10) if line.strip()]
    return said[-1][:200] if said else "it said nothing"
