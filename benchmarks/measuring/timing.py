"""Time several calls side by side: pytest-benchmark takes the samples, turn after turn, in alternating order.

One process, many short turns: what drifts (clock, temperature, neighbours) drifts for everybody.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.registry import Call

# a median over fewer samples than this is not worth printing
FEWEST_ROUNDS = 3


@dataclass
class Turn:
    """One provider's share of one pass; ``samples`` are seconds a call."""

    name: str
    call: Call
    rounds: int
    samples: list[float] = field(default_factory=list)


class SideBySide:
    """Gives every turn to the one test of ``turns.py``."""

    def __init__(self, turns: list[Turn]) -> None:
        self.turns = turns

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        metafunc.parametrize("turn", self.turns, ids=lambda turn: turn.name)


# what a shared machine lets another process have counts in the first and not in the second
CLOCKS = {"wall": "time.perf_counter", "cpu": "time.thread_time"}


def time_side_by_side(
    calls: dict[str, Call], passes: int, seconds: float, clock: str = "wall"
) -> dict[str, list[float]]:
    """Samples of each call, in seconds.

    Args:
        calls: By name; compiled and warmed up already.
        passes: How often the turn goes round; the order is reversed every other time.
        seconds: About how long each call is measured altogether.
        clock: One of ``CLOCKS``; "cpu" is the time of one thread, for calls that use no other.

    Raises:
        RuntimeError: A call failed while it was timed; what pytest printed is in the message.
    """
    rounds = {name: max(FEWEST_ROUNDS, int(seconds / passes / _once(call))) for name, call in calls.items()}
    order = list(calls)
    turns = []
    for number in range(passes):
        turns += [Turn(name, calls[name], rounds[name]) for name in (reversed(order) if number % 2 else order)]

    printed = io.StringIO()
    arguments = [
        str(Path(__file__).with_name("turns.py")),
        *("-c", os.devnull, "--rootdir", str(Path(__file__).parent), "--import-mode=importlib", "--noconftest"),
        *("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "python_files=turns.py"),
        *("--benchmark-disable-gc", f"--benchmark-timer={CLOCKS[clock]}"),
    ]
    with contextlib.redirect_stdout(printed):
        status = pytest.main(arguments, plugins=[SideBySide(turns)])
    if status != 0:
        raise RuntimeError(f"benchmarks: a call failed while it was timed\n{printed.getvalue()}")
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for turn in turns:
        samples[turn.name] += turn.samples
    return samples


def _once(call: Call) -> float:
    start = time.perf_counter()
    call()
    return max(time.perf_counter() - start, 1e-6)
