"""How a call is timed on a device, with a device whose clock is set by hand."""

from __future__ import annotations

import contextlib
import gc
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import ceilings, timing
from benchmarks.gpu.ceilings import Ceilings
from benchmarks.gpu.timing import (
    FEWEST_ROUNDS,
    MOST_ROUNDS,
    MOST_SETS,
    Prepared,
    count_sets,
    in_turn,
    prepare,
    time_passes,
)
from benchmarks.registry import Costs


@pytest.mark.parametrize(
    ("size", "l2", "expected"),
    [(11_000_000, 50 << 20, 10), (1, 50 << 20, MOST_SETS), (1 << 30, 50 << 20, 1), (0, 1, 2)],
)
def test_sets_are_twice_the_cache(size, l2, expected):
    assert count_sets(size, l2) == expected
    assert expected in (1, MOST_SETS) or expected * max(size, 1) >= 2 * l2


def test_in_turn_rotates_and_keeps_the_last_result_of_each():
    seen = []
    calls = [lambda i=i: seen.append(i) or (i, len(seen)) for i in range(3)]
    assert in_turn(calls, 2)() == [(0, 4), (1, 5), (2, 6)]
    assert seen == [0, 1, 2, 0, 1, 2]


def test_a_result_is_not_written_over_by_the_next():
    """The old result is alive while the new one is made, so the allocator cannot hand its memory out again."""
    made = []
    calls = [lambda: made.append(torch.zeros(1 << 16)) or made.pop()] * 2
    first, second = in_turn(calls, 3)()
    assert first.data_ptr() != second.data_ptr()


def test_short_work_is_repeated_until_it_is_long_enough(clock):
    prepared = prepare(clock, [clock.spend("a", 0.004), clock.spend("b", 0.006)], step_ms=0.5)
    assert prepared.graph and prepared.calls == 2 * 50
    assert prepared.step_ms == pytest.approx(0.5)
    assert prepared.launched_ms == pytest.approx(0.005)
    assert clock.captures == 2


def test_long_work_is_captured_once(clock):
    prepared = prepare(clock, [clock.spend("a", 3.0)], step_ms=0.5)
    assert (prepared.calls, clock.captures) == (1, 1)


def test_what_cannot_be_captured_is_launched(clock):
    clock.refusal = "operation not permitted when stream is capturing\nmore"
    prepared = prepare(clock, [clock.spend("a", 0.125)], step_ms=0.5)
    assert not prepared.graph and prepared.why_no_graph == "operation not permitted when stream is capturing"
    assert prepared.calls == 4


def test_two_passes_in_opposite_order(clock):
    prepared = {name: Prepared(clock.spend(name, ms), 4, ms, 0.0, True) for name, ms in (("a", 1.0), ("b", 2.0))}
    samples = time_passes(clock, prepared, seconds=0.02)
    assert {name: [len(one) for one in passes] for name, passes in samples.items()} == {"a": [20, 20], "b": [10, 10]}
    assert samples["b"][0] == pytest.approx([0.5] * 10)
    # one more step than samples: the first after somebody else's is not counted
    assert clock.log == ["a"] * 21 + ["b"] * 11 + ["b"] * 11 + ["a"] * 21


@pytest.mark.parametrize(("ms", "rounds"), [(1000.0, FEWEST_ROUNDS), (0.001, MOST_ROUNDS)])
def test_rounds_have_bounds(clock, ms, rounds):
    samples = time_passes(clock, {"a": Prepared(clock.spend("a", ms), 1, ms, 0.0, True)}, seconds=0.1)
    assert [len(one) for one in samples["a"]] == [rounds, rounds]


def test_the_larger_floor_counts():
    limits = Ceilings(copy_gb_s=3000.0, matmul_tflop_s=800.0)
    # SDXL at 64x64 and Flux, as anchors of the two regimes: microseconds from the copy, hundreds from the products
    assert limits.floor_ms(Costs(21_700_000, 1_610_000_000)) == (pytest.approx(0.00723, rel=1e-3), "copy")
    assert limits.floor_ms(Costs(113_000_000, 261_000_000_000)) == (pytest.approx(0.326, rel=1e-3), "matmul")


def test_ceilings_count_bytes_both_ways_and_two_operations_a_term(clock, monkeypatch):
    prepared = []

    def instead(clock, calls):
        calls[0]()
        prepared.append(calls)
        return Prepared(clock.spend("copy" if len(prepared) == 1 else "matmul", 2.0), 1, 2.0, 0.0, True)

    monkeypatch.setattr(ceilings, "prepare", instead)
    found = ceilings.measure(clock, "cpu", copied=1000, matrix=16)
    assert found.copy_gb_s == pytest.approx(2 * 1000 / 2e-3 / 1e9)
    assert found.matmul_tflop_s == pytest.approx(2 * 16**3 / 2e-3 / 1e12)


# --- what is asked of torch.cuda, which is not here -----------------------------------------------------------------


@pytest.fixture
def cuda(monkeypatch):
    """A ``torch.cuda`` that writes down what is asked of it."""
    log: list[str] = []

    def stream(name):
        def wait_stream(other):
            log.append(f"{name} waits for {other.name}")

        return SimpleNamespace(name=name, wait_stream=wait_stream, synchronize=lambda: log.append(f"{name} done"))

    @contextlib.contextmanager
    def inside(entered):
        log.append(f"enter {entered.name}")
        yield
        log.append(f"leave {entered.name}")

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = len(log)
            log.append("mark")

        def elapsed_time(self, other):
            return float(other.at - self.at)

    class CUDAGraph:
        def capture_begin(self):
            log.append(f"begin, {'collecting' if gc.isenabled() else 'not collecting'}")

        def capture_end(self):
            log.append("end")

        def replay(self):
            log.append("replay")

    default = stream("default")
    fake = SimpleNamespace(
        Stream=lambda: stream("side"),
        current_stream=lambda: default,
        stream=inside,
        synchronize=lambda: log.append("synchronize"),
        Event=Event,
        CUDAGraph=CUDAGraph,
        log=log,
    )
    monkeypatch.setattr(timing, "torch", SimpleNamespace(cuda=fake))
    return fake


def test_both_streams_wait_for_each_other(cuda):
    assert timing.CudaClock().run(lambda: cuda.log.append("call") or 7) == 7
    assert cuda.log == ["side waits for default", "enter side", "call", "leave side", "default waits for side"]


def test_a_capture_keeps_its_results_and_nothing_is_collected_meanwhile(cuda):
    replay = timing.CudaClock().capture(lambda: ["out"])
    assert cuda.log == ["synchronize", "enter side", "begin, not collecting", "end", "leave side"]
    assert replay.results == ["out"] and gc.isenabled()
    replay()
    assert cuda.log[-1] == "replay"


def test_a_failed_capture_is_ended(cuda):
    def call():
        raise RuntimeError("operation not permitted")

    with pytest.raises(RuntimeError, match="not permitted"):
        timing.CudaClock().capture(call)
    assert "end" in cuda.log and gc.isenabled()


def test_steps_are_queued_and_read_after_the_last(cuda):
    times = timing.CudaClock().time(lambda: cuda.log.append("call"), 2)
    marked = ["mark", "call", "mark"]
    assert cuda.log == ["side waits for default", "enter side", *marked, *marked, "leave side", "side done"]
    assert times == [2.0, 2.0]
