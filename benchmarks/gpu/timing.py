"""Time calls on a device: many in one CUDA graph, between two events, over more inputs than the L2 cache holds.

A graph takes the host out of the measurement: what is left of a launch is what the device needs. Everybody is timed
that way, weft and its peers, and once more as Python launches them, since that is what a user of eager code waits for.
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from benchmarks.registry import Call

# one replay is at least this long, so that the events around it weigh nothing
STEP_MS = 0.5
FEWEST_ROUNDS = 5
MOST_ROUNDS = 60
MOST_SETS = 32


class Clock(Protocol):
    """What timing needs of a device."""

    def run(self, call: Call) -> Any:
        """Queue ``call`` on the stream that is timed."""

    def capture(self, call: Call) -> Call:
        """A call that replays what ``call`` queues. Raises RuntimeError if it cannot be captured."""

    def time(self, call: Call, rounds: int) -> list[float]:
        """Milliseconds on the device of each of ``rounds`` runs of ``call``, queued one after the other."""


class CudaClock:
    """Events on one side stream: captures are made there, and gradients run on the stream of their forward."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()

    def run(self, call: Call) -> Any:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            result = call()
        # who looks at the result does so on the stream that was current
        torch.cuda.current_stream().wait_stream(self.stream)
        return result

    def capture(self, call: Call) -> Call:
        # as torch.cuda.graph does, but without giving all cached memory back before each of some hundred captures
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # a graph or event collected during a capture would end it
        gc.disable()
        try:
            with torch.cuda.stream(self.stream):
                graph.capture_begin()
                try:
                    results = call()
                finally:
                    graph.capture_end()
        finally:
            gc.enable()
        # results keep their memory as long as the replay lives, or the graph would write all of them to one place
        return Replay(graph, results)

    def time(self, call: Call, rounds: int) -> list[float]:
        marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for start, end in marks:
                start.record()
                call()
                end.record()
        self.stream.synchronize()
        return [start.elapsed_time(end) for start, end in marks]


@dataclass
class Replay:
    """A captured graph and what it writes to."""

    graph: torch.cuda.CUDAGraph
    results: Any

    def __call__(self) -> None:
        self.graph.replay()


@dataclass
class Prepared:
    """A provider, warm and ready to be timed.

    Attributes:
        step: What is timed as one: every input set in turn, perhaps several times.
        calls: How many calls one step makes.
        step_ms: About how long a step takes.
        launched_ms: Median time of one call where Python launches each.
        graph: Whether ``step`` replays a graph.
        why_no_graph: What the capture said, where it failed.
    """

    step: Call
    calls: int
    step_ms: float
    launched_ms: float
    graph: bool
    why_no_graph: str = ""


def count_sets(size_bytes: int, l2_bytes: int) -> int:
    """How many sets of inputs and results together are twice the L2 cache, ``MOST_SETS`` at the most."""
    return min(MOST_SETS, max(1, math.ceil(2 * l2_bytes / max(size_bytes, 1))))


def prepare(clock: Clock, calls: Sequence[Call], step_ms: float = STEP_MS) -> Prepared:
    """Warm every call up and make one step of them, as a graph where that works.

    Args:
        calls: The same work on each set of inputs.
        step_ms: How long a step should be at the least, in milliseconds.
    """
    once = in_turn(calls, 1)
    for _ in range(2):
        clock.run(once)
    launched = statistics.median(clock.time(once, 3))
    step, graph, why = once, True, ""
    try:
        step = clock.capture(once)
    except RuntimeError as error:
        graph, why = False, str(error).strip().split("\n")[0]
    length = statistics.median(clock.time(step, 3))
    repeats = max(1, math.ceil(step_ms / max(length, 1e-4)))
    if repeats > 1:
        several = in_turn(calls, repeats)
        step = clock.capture(several) if graph else several
    return Prepared(step, len(calls) * repeats, length * repeats, launched / len(calls), graph, why)


def in_turn(calls: Sequence[Call], repeats: int) -> Call:
    """All calls one after the other, ``repeats`` times; gives the last result of each."""

    def step() -> list[Any]:
        results: list[Any] = [None] * len(calls)
        for _ in range(repeats):
            for i, call in enumerate(calls):
                # the old result lives until the new one is there, so that it is written elsewhere
                results[i] = call()
        return results

    return step


def time_passes(clock: Clock, prepared: dict[str, Prepared], seconds: float) -> dict[str, list[list[float]]]:
    """Milliseconds a call, by provider: one list of samples for each of two passes, the second in reverse order.

    Args:
        seconds: About how long each provider is timed in each pass.
    """
    samples: dict[str, list[list[float]]] = {name: [] for name in prepared}
    for order in (list(prepared), list(reversed(prepared))):
        for name in order:
            one = prepared[name]
            rounds = min(MOST_ROUNDS, max(FEWEST_ROUNDS, int(1e3 * seconds / max(one.step_ms, 1e-4))))
            # the first step after another provider's is not counted
            times = clock.time(one.step, rounds + 1)[1:]
            samples[name].append([ms / one.calls for ms in times])
    return samples
