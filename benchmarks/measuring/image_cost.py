"""``python -m benchmarks.measuring.image_cost``: what a method adds to an image of a real model's size.

Passes of a denoiser take seconds, so everybody takes a single turn at each stage of an image, image after image, and
what counts is the difference to the stock pass beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import statistics
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks import registry
from benchmarks.cases import localized_residuals, maskdiffusion, soft_tokens
from benchmarks.cases.denoiser import STEPS, ImageCost, Stage, Stock
from benchmarks.measuring import memory
from benchmarks.measuring.circumstances import ROOT, circumstances
from benchmarks.run import passes_gate, results_path, write

COSTS = {cost.name: cost for cost in (maskdiffusion.COST, localized_residuals.COST, soft_tokens.COST)}


@dataclass(frozen=True)
class Options:
    """Measure what a method adds to the time and memory of an image, against stock and an eager restatement.

    Attributes:
        method: What is measured.
        shape: The size of the image.
        dtype: Of weights and activations.
        way: Names of those beside stock; none for all. The two that do the same work cannot be left out.
        images: How often every stage is measured.
        threads: Threads of torch and of weft.
        clock: "wall", or "cpu" for the time in which this process computes: the same on an idle machine with one
            thread, and what can be had on a machine that others use too.
        gate: Run the tests of parity first, and measure nothing if they fail.
        memory: Measure peak memory, in a process of its own for each.
        lock: A file to lock during each turn of all three, for who measures several things on one machine.
        out: Folder of the results, or "-" to keep none.
    """

    method: Literal["maskdiffusion", "localized_residuals", "soft_tokens"] = "maskdiffusion"
    shape: str = "sd15_512"
    dtype: str = "fp32"
    way: tuple[str, ...] = ()
    images: int = 5
    threads: int = torch.get_num_threads()
    clock: Literal["wall", "cpu"] = "wall"
    gate: bool = True
    memory: bool = True
    lock: Path | None = None
    out: str = str(ROOT / "benchmarks" / "results")


def chosen(cost: ImageCost, names: tuple[str, ...]) -> ImageCost:
    """``cost`` with stock, what it is judged by, and the ways of these names; all of them for no names."""
    if not names:
        return cost
    unknown = [name for name in names if name not in cost.ways]
    if unknown:
        raise ValueError(f"benchmarks: `way` must be of {', '.join(cost.ways)}; got {', '.join(unknown)}")
    kept = {"stock", cost.ours, cost.against, cost.default, *names}
    return dataclasses.replace(cost, ways={name: way for name, way in cost.ways.items() if name in kept})


@contextlib.contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def seconds_by_stage(cost: ImageCost, options: Options) -> dict[str, dict[str, list[float]]]:
    """Seconds of every pass, by stage and way; the samples of a stage belong together, one an image.

    Raises:
        AssertionError: weft and the restatement do not find the same noise.
    """
    benchmark = registry.load(cost.name)
    (shape,) = registry.select("shape", benchmark.shapes, (options.shape,))
    images = benchmark.make_inputs(shape, benchmark.dtypes[options.dtype])
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[options.clock]
    ways: dict[str, Stock] = {name: way(images) for name, way in cost.ways.items()}
    seconds: dict[str, dict[str, list[float]]] = {stage.name: {name: [] for name in ways} for stage in cost.stages}
    for image in range(-1, options.images):  # the first one is for warming up and not counted
        for way in ways.values():
            way.begin()
        for stage in cost.stages:
            images.expected = None
            with alone(options.lock):
                for name in reversed(ways) if image % 2 else ways:
                    start = clock()
                    found = ways[name](stage)
                    taken = clock() - start
                    cost.verify(images, name, found)
                    if image >= 0:
                        seconds[stage.name][name].append(taken)
            latest = ", ".join(f"{name} {taken[-1]:.2f} s" for name, taken in seconds[stage.name].items() if taken)
            print(f"image {image + 1} of {options.images}, {stage.name}: {latest or 'warm-up'}", file=sys.stderr)
    for way in ways.values():
        way.close()
    return seconds


def extra_seconds(seconds: dict[str, dict[str, list[float]]], name: str, stage: Stage) -> float:
    """Median over images of what a pass takes longer than the stock pass beside it."""
    taken = seconds[stage.name]
    return statistics.median(ours - stock for ours, stock in zip(taken[name], taken["stock"], strict=True))


def summary(cost: ImageCost, seconds: dict[str, dict[str, list[float]]], peaks: dict[str, int]) -> dict[str, Any]:
    """What a whole image costs.

    Args:
        seconds: Of ``seconds_by_stage``.
        peaks: Bytes by way, at ``memory_stage``; empty if not measured.

    Returns:
        stock_s: seconds of all passes of a stock image; extra_s by way; extra_share of the default; less_time and
        less_memory, how many times as much ``against`` adds as weft does for the same work, None where weft adds
        nothing that can be measured.
    """
    stock = sum(stage.count * statistics.median(seconds[stage.name]["stock"]) for stage in cost.stages)
    extra = {
        name: sum(stage.count * extra_seconds(seconds, name, stage) for stage in cost.stages) for name in cost.beside
    }
    found: dict[str, Any] = {
        "stock_s": stock,
        "extra_s": extra,
        "extra_share": extra[cost.default] / stock,
        "less_time": extra[cost.against] / extra[cost.ours] if extra[cost.ours] > 0 else None,
    }
    if peaks:
        more = {name: peaks[name] - peaks["stock"] for name in extra}
        found["extra_bytes"] = more
        found["less_memory"] = more[cost.against] / more[cost.ours] if more[cost.ours] > 0 else None
    return found


def text(cost: ImageCost, seconds: dict[str, dict[str, list[float]]], whole: dict[str, Any]) -> str:
    """The stages as a table, and the figures with what they should be."""
    rows = [f"{'stage':<10}{'of 50':>6}{'stock, s':>10}" + "".join(f"{name + ' adds':>16}" for name in cost.beside)]
    for stage in cost.stages:
        stock = statistics.median(seconds[stage.name]["stock"])
        added = "".join(f"{extra_seconds(seconds, name, stage):>+16.3f}" for name in cost.beside)
        rows.append(f"{stage.name:<10}{stage.count:>6}{stock:>10.3f}{added}  {stage.does}")
    shares = {name: more / whole["stock_s"] for name, more in whole["extra_s"].items()}
    added = ", ".join(f"{name} {whole['extra_s'][name]:+.2f} s ({share:+.1%})" for name, share in shares.items())
    rows.append(f"an image: stock {whole['stock_s']:.1f} s, {added}")
    rows.append(f"  extra time of {cost.default} {whole['extra_share']:.2%} of stock (at most {cost.share:.0%})")
    rows.append(f"  {_times(whole['less_time'])} less extra time than {cost.against} (at least {cost.less_time:.0f}x)")
    if "extra_bytes" in whole:
        sizes = {name: f"{size / 2**20:+.1f} MiB" for name, size in whole["extra_bytes"].items()}
        rows.append("  memory beyond stock's peak: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
        less = _times(whole["less_memory"])
        rows.append(f"  {less} less extra memory than {cost.against} (at least {cost.less_memory:.0f}x)")
    return "\n".join(rows)


def _times(ratio: float | None) -> str:
    return "beyond measure" if ratio is None else f"{ratio:.1f}x"


def main() -> None:
    options = tyro.cli(Options, description=Options.__doc__)
    if options.clock == "cpu" and options.threads != 1:
        # threads that wait for one another count as busy
        sys.exit(f"benchmarks: `clock` cpu needs `threads` 1; got {options.threads}")
    cost = chosen(COSTS[options.method], options.way)
    if options.gate and not passes_gate(registry.load(cost.name)):
        sys.exit(f"benchmarks: the tests of {cost.name} fail, so its speed means nothing; --no-gate shows it anyway")
    torch.set_num_threads(options.threads)
    peaks: dict[str, int] = {}
    if options.memory:
        for name in cost.ways:
            arguments = (cost.name, options.shape, options.dtype, cost.memory_stage, (name,), options.threads)
            peaks |= memory.measure(*arguments)
    seconds = seconds_by_stage(cost, options)
    whole = summary(cost, seconds, peaks)
    print(text(cost, seconds, whole))
    if options.out != "-":
        where = circumstances(options.threads, "benchmarks.measuring.image_cost")
        around = {"run": uuid.uuid4().hex[:12], "gate": options.gate, **where}
        line = {
            "op": cost.name,
            "shape": options.shape,
            "dtype": options.dtype,
            "steps": STEPS,
            "clock": options.clock,
        }
        line |= {"seconds": seconds, "peak_bytes": peaks, **whole, **around}
        write([json.loads(json.dumps(line))], f"{cost.name}_cost", options.out)
        print(f"written to {results_path(f'{cost.name}_cost', options.out)}")


if __name__ == "__main__":
    main()
