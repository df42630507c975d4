"""``python -m benchmarks.run attention``: test, then measure everybody side by side, print a table, keep the lines."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from benchmarks import registry
from benchmarks.measuring import memory
from benchmarks.measuring.circumstances import ROOT, circumstances, device_slug, month
from benchmarks.measuring.timing import time_side_by_side
from benchmarks.registry import Benchmark, Mode, Shape
from benchmarks.reporting.tables import Table


@dataclass(frozen=True)
class Options:
    """Measure an op and its baselines side by side.

    Attributes:
        op: Which op.
        shape: Names of shapes; none for all that are not optional.
        mode: Names of modes; none for all that are not backward.
        dtype: Names of dtypes; none for those that the op is usually measured in.
        provider: Names of providers; none for all.
        threads: Threads of torch and of weft.
        optional: Measure optional shapes too.
        backward: Measure modes with a backward too.
        quick: A tenth of the time, for a look; nothing to publish.
        gate: Run the op's tests first, and measure nothing if they fail.
        memory: Measure peak memory, in a process of its own.
        seconds: About how long each provider is measured for one row.
        passes: Into how many turns that time is cut.
        clock: "wall"; or "cpu" for the time of the one thread that computes, on a machine that others use too.
        out: Folder of the results, or "-" to keep none.
    """

    op: Annotated[str, tyro.conf.Positional]
    shape: tuple[str, ...] = ()
    mode: tuple[str, ...] = ()
    dtype: tuple[str, ...] = ()
    provider: tuple[str, ...] = ()
    threads: int = torch.get_num_threads()
    optional: bool = False
    backward: bool = False
    quick: bool = False
    gate: bool = True
    memory: bool = True
    seconds: float = 1.0
    passes: int = 5
    clock: Literal["wall", "cpu"] = "wall"
    out: str = str(ROOT / "benchmarks" / "results")


def run(options: Options) -> list[dict[str, Any]]:
    """Measure what ``options`` ask for, show it and keep it.

    Returns:
        One record a provider, shape, dtype and mode, as they are written.

    Raises:
        ValueError: An unknown op, shape, mode, dtype or provider, or CPU time of several threads.
        AssertionError: A provider computes something else than the definition.
    """
    benchmark = registry.load(options.op)
    shapes = registry.select("shape", benchmark.shapes, options.shape, options.optional)
    modes = registry.select("mode", benchmark.modes, options.mode)
    modes = tuple(mode for mode in modes if options.mode or options.backward or not mode.backward)
    if unknown := set(options.dtype) - set(benchmark.dtypes):
        known = ", ".join(benchmark.dtypes)
        raise ValueError(f"benchmarks: `dtype` must be of {known}; got {', '.join(sorted(unknown))}")
    if options.clock == "cpu" and options.threads != 1:
        raise ValueError(f"benchmarks: `clock` cpu is the time of one thread; got {options.threads} threads")
    torch.set_num_threads(options.threads)
    around = {
        "run": uuid.uuid4().hex[:12],
        "gate": options.gate,
        "clock": options.clock,
        **circumstances(options.threads),
    }
    lines = []
    for shape in shapes:
        for dtype in options.dtype or benchmark.default_dtypes or tuple(benchmark.dtypes):
            for mode in (mode for mode in modes if mode.applies(shape)):
                measured = _measure(benchmark, shape, dtype, mode, options)
                measured = [{**line, **around} for line in measured]
                print(Table.of(measured).text(), flush=True)
                # at once, so that a run which is stopped keeps what it has
                if options.out != "-":
                    write(measured, benchmark.op, options.out)
                lines += measured
    return lines


def _measure(benchmark: Benchmark, shape: Shape, dtype: str, mode: Mode, options: Options) -> list[dict[str, Any]]:
    """Every provider of one mode at one shape and dtype."""
    inputs = benchmark.make_inputs(shape, benchmark.dtypes[dtype], mode)
    here = mode.providers_on("cpu")
    wanted = tuple(name for name in options.provider if any(name == p.name for p in here))
    if options.provider and not wanted:
        known = ", ".join(p.name for p in here)
        raise ValueError(f"benchmarks: `provider` must be of {known}; got {', '.join(options.provider)}")
    providers = registry.select("provider", here, wanted)
    # compiled calls of other shapes count towards the compiler's limit, past which it silently runs eager code
    torch.compiler.reset()
    calls = {}
    for provider in providers:
        calls[provider.name] = provider.prepare(inputs)
        for _ in range(2):
            result = calls[provider.name]()
        benchmark.verify(inputs, provider, result)
    seconds = options.seconds / 10 if options.quick else options.seconds
    samples = time_side_by_side(calls, options.passes, seconds, options.clock)
    peaks: dict[str, int] = {}
    if options.memory:
        peaks = memory.measure(benchmark.op, shape.name, dtype, mode.name, tuple(calls), options.threads)
    lines = []
    for provider in providers:
        times = sorted(1e3 * sample for sample in samples[provider.name])
        cuts = statistics.quantiles(times, n=5, method="inclusive")
        lines.append(
            {
                "op": benchmark.op,
                "shape": shape.name,
                "sizes": shape.sizes,
                "dtype": dtype,
                "mode": mode.name,
                "provider": provider.name,
                "ours": provider.ours,
                "note": provider.note,
                "yardstick": provider.yardstick,
                "median_ms": round(statistics.median(times), 5),
                "p20_ms": round(cuts[0], 5),
                "p80_ms": round(cuts[3], 5),
                "rounds": len(times),
                "peak_extra_bytes": peaks.get(provider.name),
                "result_bytes": benchmark.result_bytes(inputs),
                "quick": options.quick,
            }
        )
    return lines


def passes_gate(benchmark: Benchmark) -> bool:
    """Whether the op's tests pass, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", *benchmark.gate]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def results_path(op: str, folder: str) -> Path:
    """This month's file of this op and device."""
    return Path(folder) / f"{op}_{device_slug()}_{month()}.jsonl"


def write(lines: list[dict[str, Any]], op: str, folder: str) -> None:
    """Append ``lines`` to ``results_path``."""
    path = results_path(op, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def main() -> None:
    options = tyro.cli(Options, description=Options.__doc__)
    try:
        benchmark = registry.load(options.op)
        if options.gate and not passes_gate(benchmark):
            sys.exit(
                f"benchmarks: the tests of {options.op} fail, so its speed means nothing; --no-gate shows it anyway"
            )
        lines = run(options)
    except ValueError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    if options.out != "-":
        print(f"{len(lines)} lines appended to {results_path(options.op, options.out)}")


if __name__ == "__main__":
    main()
