"""``python -m benchmarks.gpu.measure``: the plan, case by case, until it is done or the time is up.

Result lines have the form that ``benchmarks.run`` writes on a CPU, in a file beside those. What a provider refuses or
fails, and what was left when time ran out, is recorded too: a table that is silent about them would mislead.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks import registry
from benchmarks.gpu import ceilings, device
from benchmarks.gpu.plan import PLAN, Case
from benchmarks.gpu.timing import Clock, CudaClock, Prepared, count_sets, prepare, time_passes
from benchmarks.measuring.circumstances import ROOT, common, month
from benchmarks.registry import Benchmark, Call, Provider
from benchmarks.reporting.tables import Table
from weft import BackendUnavailableError

Line = dict[str, Any]


@dataclass(frozen=True)
class Rig:
    """What a case is measured on.

    Attributes:
        clock: Runs, captures and times calls.
        ceilings: Of this device.
        l2_bytes: Size of its cache.
        device: Where torch puts the inputs.
        peak: (call, bytes of its result) to its memory beyond that; None to measure none.
        state: Clocks and temperature now.
        seconds: About how long each provider is timed in each of its two passes.
    """

    clock: Clock
    ceilings: ceilings.Ceilings
    l2_bytes: int
    device: str = "cuda"
    peak: Callable[[Call, int], int] | None = None
    state: Callable[[], dict[str, Any]] = dict
    seconds: float = 0.1


def measure_case(rig: Rig, benchmark: Benchmark, case: Case) -> Iterator[Line]:
    """Result lines of everybody who can do the case; before them, for everybody else, a line that says why not."""
    shape, mode, providers = case.parts(benchmark)
    dtype = benchmark.dtypes[case.dtype]
    assert benchmark.costs is not None
    costs = benchmark.costs(shape, dtype, mode)
    sets = [
        benchmark.make_inputs(shape, dtype, mode, device=rig.device, seed=seed)
        for seed in range(count_sets(costs.size_bytes, rig.l2_bytes))
    ]
    result_bytes = benchmark.result_bytes(sets[0])
    floor_ms, floor = rig.ceilings.floor_ms(costs)
    around = {"op": benchmark.op, "shape": shape.name, "sizes": shape.sizes, "dtype": case.dtype, "mode": mode.name}

    prepared: dict[str, Prepared] = {}
    peaks: dict[str, int | None] = {}
    for provider in providers:
        try:
            calls = [provider.prepare(inputs) for inputs in sets]
            benchmark.verify(sets[0], provider, rig.clock.run(calls[0]))
            prepared[provider.name] = prepare(rig.clock, calls)
            peaks[provider.name] = rig.peak(calls[0], result_bytes) if rig.peak else None
        # one kernel that is missing, refuses or is wrong must not cost the others their numbers
        except Exception as error:
            yield {**around, **why_not(provider, error)}
    samples = time_passes(rig.clock, prepared, rig.seconds)
    state = rig.state()
    for provider in providers:
        if provider.name in prepared:
            one = prepared[provider.name]
            yield {
                **around,
                "provider": provider.name,
                "ours": provider.ours,
                "note": provider.note,
                "yardstick": provider.yardstick,
                **statistics_of(samples[provider.name]),
                "launched_ms": round(one.launched_ms, 5),
                "graph": one.graph,
                "why_no_graph": one.why_no_graph,
                "sets": len(sets),
                "cold": len(sets) * costs.size_bytes >= 2 * rig.l2_bytes,
                "bytes": costs.size_bytes,
                "flops": costs.flops,
                "floor_ms": round(floor_ms, 6),
                "floor": floor,
                "peak_extra_bytes": peaks[provider.name],
                "result_bytes": result_bytes,
                "quick": False,
                **state,
            }


def why_not(provider: Provider, error: Exception) -> Line:
    """A line for somebody without a number: ``refused`` for what it says it cannot do, ``failed`` for the rest.

    A peer refuses in many ways, none of them our fault; of weft only its own word counts as refusing.
    """
    refused = isinstance(error, BackendUnavailableError) if provider.ours else not isinstance(error, AssertionError)
    reason = f"{type(error).__name__}: {error}".strip()
    kind = "refused" if refused else "failed"
    return {"kind": kind, "provider": provider.name, "ours": provider.ours, "reason": reason[:500]}


def statistics_of(passes: list[list[float]]) -> Line:
    """Median, quintiles and the median of each pass, in milliseconds."""
    every = sorted(ms for samples in passes for ms in samples)
    cuts = statistics.quantiles(every, n=5, method="inclusive")
    return {
        "median_ms": round(statistics.median(every), 6),
        "p20_ms": round(cuts[0], 6),
        "p80_ms": round(cuts[3], 6),
        "passes_ms": [round(statistics.median(samples), 6) for samples in passes],
        "rounds": len(every),
    }


def measure(rig: Rig, cases: tuple[Case, ...], until: float, keep: Callable[[list[Line]], None]) -> list[Line]:
    """All lines of ``cases``, each case handed to ``keep`` as soon as it is done.

    Args:
        until: Value of ``time.monotonic`` after which no case is begun.
    """
    lines: list[Line] = []
    for case in cases:
        if time.monotonic() >= until:
            found = [{"kind": "not reached", "shape": case.shape, "dtype": case.dtype, "mode": case.mode}]
        else:
            try:
                found = list(measure_case(rig, registry.load(case.op), case))
            # the device may be out of memory for one case and have enough for the next
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"[:500]
                names = {"shape": case.shape, "dtype": case.dtype, "mode": case.mode}
                found = [{"kind": "failed", **names, "provider": "", "ours": True, "reason": reason}]
        show(found)
        keep(found)
        lines += found
        # compiled calls of other shapes count towards the compiler's limit, past which it silently runs eager code
        torch.compiler.reset()
        gc.collect()
        if rig.device == "cuda":
            torch.cuda.empty_cache()
    return lines


def show(lines: list[Line]) -> None:
    measured = [line for line in lines if "kind" not in line]
    if measured:
        print(Table.of(measured).text(), flush=True)
    for line in lines:
        if "kind" in line:
            where = f"{line['shape']} {line['dtype']} {line['mode']} {line.get('provider', '')}".rstrip()
            print(f"  {where}: {line['kind']}{': ' + line['reason'] if 'reason' in line else ''}", flush=True)


@dataclass(frozen=True)
class Options:
    """Measure the plan on this GPU.

    Attributes:
        seconds: After this many no further case is begun.
        shape: Only cases of these shapes; none for all.
        mode: Only cases of these modes; none for all.
        run: Name of the run, for its lines.
        out: Folder of the results.
    """

    seconds: float = 240.0
    shape: tuple[str, ...] = ()
    mode: tuple[str, ...] = ()
    run: str = ""
    out: Path = ROOT / "benchmarks" / "results"


def main() -> None:
    until = time.monotonic()
    options = tyro.cli(Options, description=Options.__doc__)
    until += options.seconds
    if not torch.cuda.is_available():
        sys.exit("benchmarks.gpu.measure: needs a CUDA device; torch finds none")
    torch.backends.cuda.matmul.allow_tf32 = False
    facts = device.facts()
    clock = CudaClock()
    found = ceilings.measure(clock)
    print(f"copy {found.copy_gb_s:.0f} GB/s, bf16 matmul {found.matmul_tflop_s:.0f} TFLOP/s", flush=True)
    around = {"run": options.run or uuid.uuid4().hex[:12], **common(), **facts, **asdict(found)}
    options.out.mkdir(parents=True, exist_ok=True)

    def keep(lines: list[Line]) -> None:
        for line in lines:
            topic = "gpu" if "kind" in line else line["op"]
            path = options.out / f"{topic}_{device.slug(facts['device'])}_{month()}.jsonl"
            with path.open("a") as file:
                file.write(json.dumps({**line, **around}) + "\n")

    rig = Rig(clock, found, facts["l2_bytes"], peak=device.peak_extra_bytes, state=device.state)
    cases = tuple(
        case
        for case in PLAN
        if (not options.shape or case.shape in options.shape) and (not options.mode or case.mode in options.mode)
    )
    lines = measure(rig, cases, until, keep)
    bad = [line for line in lines if line.get("kind") in ("failed", "not reached")]
    print(f"{sum('kind' not in line for line in lines)} figures measured, {len(bad)} failed or not reached")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
