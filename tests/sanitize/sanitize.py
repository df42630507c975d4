"""Random calls of every native entry point under sanitizers: ``python tests/sanitize/sanitize.py [--count N]``.

Prints a row for each sanitizer, op and instruction set. Exit status 1 after a report, a wrong result or a refusal:
what is printed then ends with the case, and with the driver's arguments that run it alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sanitized_driver import OPS, SANITIZERS, Sanitizer, build_driver, run_driver

PROCESSES = 2


@dataclass(frozen=True)
class Run:
    """Cases [first, first + count) of an op on one instruction set."""

    sanitizer: Sanitizer
    driver: Path
    op: str
    isa: str
    first: int
    count: int
    seed: int

    def arguments(self) -> tuple[str, ...]:
        numbers = {"--seed": self.seed, "--from": self.first, "--count": self.count}
        return ("--op", self.op, "--isa", self.isa, *(word for k, v in numbers.items() for word in (k, str(v))))


def runs_of(sanitizer: Sanitizer, driver: Path, ops: Sequence[str], count: int | None, seed: int) -> list[Run]:
    """The cases of each op, shared out among the instruction sets that run here."""
    usable = run_driver(driver, sanitizer, "--list").stdout.split()
    runs = []
    for op in ops:
        # which of them computes means nothing to parallel_for
        isas = usable[:1] if op == "parallel_for" else usable
        cases = sanitizer.cases if count is None else count
        each = -(-cases // len(isas))
        runs += [Run(sanitizer, driver, op, isa, i * each, each, seed) for i, isa in enumerate(isas)]
    return runs


def show(run: Run) -> bool:
    """Run, print a row, and on failure the report. Whether all went well."""
    start = time.monotonic()
    done = run_driver(run.driver, run.sanitizer, *run.arguments())
    ok = done.returncode == 0
    row = f"{run.sanitizer.name:8} {run.op:15} {run.isa:12} {run.count:7d} cases {time.monotonic() - start:6.1f} s"
    print(f"{row}  {'no report' if ok else 'FAILED'}" + ("" if ok else f"\n{done.stdout}"), flush=True)
    return ok


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make sanitize ARGS=...", description=__doc__)
    defaults = ", ".join(f"{s.cases} under {s.name}" for s in SANITIZERS.values())
    parser.add_argument("--count", type=int, help=f"cases of each op ({defaults})")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other cases")
    parser.add_argument("--op", choices=OPS, action="append", help="only this one")
    parser.add_argument("--sanitizer", choices=SANITIZERS, action="append", help="only this one")
    options = parser.parse_args(arguments)

    runs = []
    for name in options.sanitizer or SANITIZERS:
        driver = build_driver(SANITIZERS[name])
        runs += runs_of(SANITIZERS[name], driver, options.op or OPS, options.count, options.seed)
    # the slow ones first, so that no process waits for the other at the end
    runs.sort(key=lambda run: (not run.isa.startswith("wide"), run.sanitizer.name, run.op))
    with ThreadPoolExecutor(PROCESSES) as pool:
        went_well = list(pool.map(show, runs))
    for op in options.op or OPS:
        counts = {name: sum(r.count for r in runs if r.op == op and r.sanitizer.name == name) for name in SANITIZERS}
        print(f"{op}: " + ", ".join(f"{count} cases under {name}" for name, count in counts.items() if count))
    if not any(run.isa == "amx" for run in runs) and "address" in {run.sanitizer.name for run in runs}:
        print(
            "AMX itself is unverified: this processor or compiler has none. wide_tiles ran its code, tiles emulated."
        )
    print(f"{went_well.count(False)} of {len(runs)} runs failed")
    return 0 if all(went_well) else 1


if __name__ == "__main__":
    sys.exit(main())
