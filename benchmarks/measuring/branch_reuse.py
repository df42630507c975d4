"""``python -m benchmarks.measuring.branch_reuse``: time and error of a branch that runs at every n-th step only.

The branch is untrained (see ``benchmarks.cases.task_branch``): it copies a UNet, in the shapes model a trained one, so
that its features change from step to step as those of a real branch do; what it makes of them is random. So the error
says how far what is used again has gone stale, and nothing about how an image looks with a trained branch.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

import weft
from benchmarks import registry
from benchmarks.cases.task_branch import Painting
from benchmarks.measuring.circumstances import ROOT, circumstances
from benchmarks.run import passes_gate, results_path, write
from weft.testing import relative_l2

OP = "task_branch"
WITHOUT, EXACT = "without", "reuse_1"


@dataclass(frozen=True)
class Options:
    """Measure images with a branch that is used again across steps, against one that is not.

    Attributes:
        shape: The model.
        dtype: Of weights and activations.
        reuse: At every how many steps the branch is computed; 1 is always measured.
        images: How many are made of each, with noise of their own.
        steps: Of the sampler; those of the shape if not given.
        threads: Threads of torch and of weft.
        clock: "wall", or "cpu" for the time in which this process computes, with one thread: what can be had on a
            machine that others use too.
        gate: Run the tests first, and measure nothing if they fail.
        out: Folder of the results, or "-" to keep none.
    """

    shape: str = "embedded"
    dtype: str = "fp32"
    reuse: tuple[int, ...] = (2, 3)
    images: int = 4
    steps: int | None = None
    threads: int = torch.get_num_threads()
    clock: Literal["wall", "cpu"] = "wall"
    gate: bool = True
    out: str = str(ROOT / "benchmarks" / "results")


def measured(
    painting: Painting, reuse: tuple[int, ...], images: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, dict[str, Any]]:
    """By way: seconds of every image, and for those with a branch the relative error of their latents.

    ``share`` is that error over what the branch changes altogether: 1 would be as far off as no branch at all.
    """
    ways = {WITHOUT: 0, EXACT: 1, **{f"reuse_{n}": n for n in reuse if n > 1}}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    latents: dict[str, list[Tensor]] = {name: [] for name in ways}
    for image in range(-1, images):  # the first one is for warming up and not counted
        for name in reversed(ways) if image % 2 else ways:
            start = clock()
            found = _image(painting, ways[name], image + 1)
            if image >= 0:
                seconds[name].append(clock() - start)
                latents[name].append(found)
    whole = {}
    for name in ways:
        errors = [relative_l2(found, exact) for found, exact in zip(latents[name], latents[EXACT], strict=True)]
        whole[name] = {"seconds": seconds[name], "error": statistics.median(errors)}
    changed = whole[WITHOUT]["error"]
    return {name: {**found, "share": found["error"] / changed} for name, found in whole.items()}


def _image(painting: Painting, reuse: int, seed: int) -> Tensor:
    branch = painting.branch(max(reuse, 1))
    if not reuse:
        branch.until = 0  # attached, and never computed
    with weft.attach(painting.pipe, branch):
        return painting.call(seed, **branch.removal(words=""))


def text(found: dict[str, dict[str, Any]]) -> str:
    """A row for each way."""
    exact = statistics.median(found[EXACT]["seconds"])
    rows = [f"{'way':<10}{'image, s':>10}{'of reuse_1':>12}{'error':>10}{'of the effect':>15}"]
    for name, way in found.items():
        seconds = statistics.median(way["seconds"])
        rows.append(f"{name:<10}{seconds:>10.3f}{seconds / exact:>12.2f}{way['error']:>10.4f}{way['share']:>15.3f}")
    rows.append("error: of the latents, relative to reuse_1; the branch is untrained, so it shows staleness, no looks")
    return "\n".join(rows)


def main() -> None:
    options = tyro.cli(Options, description=Options.__doc__)
    if options.clock == "cpu" and options.threads != 1:
        # threads that wait for one another count as busy
        sys.exit(f"benchmarks: `clock` cpu needs `threads` 1; got {options.threads}")
    if any(every < 2 for every in options.reuse):
        sys.exit(f"benchmarks: `reuse` must be at least 2, and 1 is always measured; got {options.reuse}")
    benchmark = registry.load(OP)
    if options.gate and not passes_gate(benchmark):
        sys.exit(f"benchmarks: the tests of {OP} fail, so its speed means nothing; --no-gate shows it anyway")
    torch.set_num_threads(options.threads)
    (shape,) = registry.select("shape", benchmark.shapes, (options.shape,))
    painting = benchmark.make_inputs(shape, benchmark.dtypes[options.dtype])
    painting.steps = options.steps or painting.steps
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[options.clock]
    found = measured(painting, options.reuse, options.images, clock)
    print(text(found))
    if options.out != "-":
        around = {"run": uuid.uuid4().hex[:12], "gate": options.gate, **circumstances(options.threads, __spec__.name)}
        line = {
            "op": OP,
            "clock": options.clock,
            "shape": shape.name,
            "dtype": options.dtype,
            "steps": painting.steps,
            "is_trained": False,
        }
        write([json.loads(json.dumps({**line, "ways": found, **around}))], f"{OP}_reuse", options.out)
        print(f"written to {results_path(f'{OP}_reuse', options.out)}")


if __name__ == "__main__":
    main()
