"""``python -m benchmarks.gpu``: build, test on the device, sanitize, measure, write it all down; under nine minutes.

``--dry-run`` on a machine without a GPU compiles for GPUs, executes the kernels under emulation and interpreter, and
lists what would be run. The exit status is 0 only if everything that could be done passed.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.gpu import device, steps, summary
from benchmarks.gpu.plan import OPS
from benchmarks.gpu.stages import ROOT, Outcome, describe, run_all
from benchmarks.measuring.circumstances import common, month
from benchmarks.reporting import figures, tables


@dataclass(frozen=True)
class Options:
    """Test and measure weft on this machine's GPU.

    Attributes:
        dry_run: Do what needs no GPU, and list the rest.
        full: In a dry run, everything of its kind (an hour on two cores) and not some of each.
        out: Folder of the results.
    """

    dry_run: bool = False
    full: bool = False
    out: Path = tables.RESULTS


def on_a_gpu(options: Options, run: str, logs: Path) -> list[Outcome]:
    """Run everything, then write stages, failures, figures and times for machines and for readers."""
    facts = device.facts()
    before = device.state()
    print(f"{facts['device']}, driver {facts['driver']}; {before}", flush=True)
    outcomes = run_all(steps.on_a_gpu(run, str(options.out)), steps.TOTAL, logs)
    around = {"run": run, **common(), **facts, "state_before": before, "state_after": device.state()}
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"{device.slug(facts['device'])}_{month()}"
    records = options.out / f"gpu_{name}.jsonl"
    with records.open("a") as file:
        file.writelines(json.dumps({**line, **around}) + "\n" for line in summary.stage_lines(outcomes))
    measured = [options.out / f"{op}_{name}.jsonl" for op in OPS]
    lines = [line for path in measured for line in of_run(path, run)]
    silent = [line for line in of_run(records, run) if line["kind"] in ("refused", "failed", "not reached")]
    page = options.out / f"gpu_{name}.md"
    page.write_text(summary.markdown(around, outcomes, lines, silent))
    print(f"\n{figures.text(lines)}\n\n{page}")
    print(*measured, records, sep="\n")
    return outcomes


def of_run(path: Path, run: str) -> list[dict[str, Any]]:
    """Lines of one run in a file that may hold several, or not exist."""
    texts = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, texts) if line["run"] == run]


def dry_run(options: Options, logs: Path) -> list[Outcome]:
    """Do what can be done here, and say what could not."""
    outcomes = run_all(steps.without_a_gpu(options.full), 6 * 3600 if options.full else 1800, logs)
    text, ids = summary.would_run()
    (logs / "tests.txt").write_text("\n".join(ids) + "\n")
    print(f"\n{text}\n  ids of the tests: {(logs / 'tests.txt').relative_to(ROOT)}")
    print(f"\n{figures.text(tables.read(options.out))}")
    return outcomes


def main() -> None:
    options = tyro.cli(Options, description=Options.__doc__)
    if options.full and not options.dry_run:
        sys.exit("benchmarks.gpu: `--full` belongs to a dry run; on a GPU everything is run anyway")
    if not options.dry_run and not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: needs a CUDA device and torch finds none; --dry-run does what can be done without")
    start, run = time.monotonic(), uuid.uuid4().hex[:12]
    logs = ROOT / "build" / "gpu" / run
    logs.mkdir(parents=True, exist_ok=True)
    outcomes = dry_run(options, logs) if options.dry_run else on_a_gpu(options, run, logs)
    print(f"\n{'dry run, no GPU used' if options.dry_run else 'run'} {run}, {time.monotonic() - start:.0f} s:")
    for outcome in outcomes:
        print(f"  {outcome.name}: {describe(outcome)}")
    bad = [outcome.name for outcome in outcomes if not outcome.good]
    skipped = [outcome.name for outcome in outcomes if outcome.status == "skipped"]
    print(f"  {len(outcomes) - len(bad) - len(skipped)} of {len(outcomes)} stages passed", end="")
    print(f"; skipped: {', '.join(skipped)}" if skipped else "", end="")
    print(f"; not passed: {', '.join(bad)}" if bad else "")
    if options.dry_run:
        print("  Nothing was executed on a GPU: numbers, races and speed there remain unknown.")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
