"""A device that is not there: calls run at once, and time passes as a test says."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.registry import Call


class FakeClock:
    """A clock whose calls take as long as they say.

    Attributes:
        now: Milliseconds that have passed; a call adds its own.
        captures: How many graphs were captured.
        refusal: What a capture raises, if not empty.
        log: Every step that was timed, in order.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.captures = 0
        self.refusal = ""
        self.log: list[str] = []

    def spend(self, name: str, milliseconds: float) -> Call:
        """A call that takes this long and gives its name."""

        def call() -> str:
            self.now += milliseconds
            self.log.append(name)
            return name

        return call

    def run(self, call: Call) -> Any:
        return call()

    def capture(self, call: Call) -> Call:
        self.captures += 1
        if self.refusal:
            raise RuntimeError(self.refusal)
        return call

    def time(self, call: Call, rounds: int) -> list[float]:
        times = []
        for _ in range(rounds):
            start = self.now
            call()
            # work that says nothing of its length takes this long
            self.now += 20.0 * (self.now == start)
            times.append(self.now - start)
        return times


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
