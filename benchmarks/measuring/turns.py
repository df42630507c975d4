"""What pytest-benchmark runs for each turn of ``benchmarks.measuring.timing``; no test of the package."""

from __future__ import annotations

from typing import Any


def test_turn(benchmark: Any, turn: Any) -> None:
    # the first call after another provider's finds its caches cold; it is not counted
    benchmark.pedantic(turn.call, rounds=turn.rounds, iterations=1, warmup_rounds=1)
    turn.samples.extend(benchmark.stats.stats.data)
