"""What a run found, for a reader: stages, failed tests, who refused, figures and times, with device and versions."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.gpu import plan, steps
from benchmarks.gpu.stages import ROOT, Outcome
from benchmarks.reporting import figures, tables

Line = dict[str, Any]

METHOD = (
    "Times are medians on the device: calls queued in one CUDA graph (*launched*: as Python launches them), over sets "
    "of inputs that together are twice the L2 cache where *cold* says so, in two passes of opposite order. Floors: "
    "bytes that must move over the bandwidth of a copy, products over the rate of a bf16 matrix product, both of this "
    "run."
)


def stage_lines(outcomes: Sequence[Outcome]) -> list[Line]:
    """A record a stage, and one a test that failed."""
    found: list[Line] = []
    for outcome in outcomes:
        names = {
            "stage": outcome.name,
            "status": outcome.status,
            "summary": outcome.summary,
            "command": outcome.command,
        }
        found.append({"kind": "stage", **names, "seconds": round(outcome.seconds, 1)})
        failed = (test for test in outcome.tests if test["outcome"] == "failed")
        found += [{"kind": "failed test", "stage": outcome.name, **test} for test in failed]
    return found


def markdown(around: Line, outcomes: Sequence[Outcome], lines: list[Line], silent: list[Line]) -> str:
    """One run as a page.

    Args:
        around: Device, versions, commit, ceilings.
        lines: Its result lines.
        silent: Its lines about everybody without a number.
    """
    titles = ("device", "driver", "cuda", "torch", "triton", "weft", "commit", "dirty", "date", "run")
    parts = [
        f"# {around['device']}, {around['date'][:10]}",
        table(("", ""), [(name, around.get(name)) for name in titles]),
        METHOD,
        "## Stages",
        table(("stage", "", "s", ""), [(o.name, o.status, f"{o.seconds:.0f}", o.summary) for o in outcomes]),
        "## Figures",
        figures.markdown(lines),
        "## Times",
        times(lines),
    ]
    if silent:
        parts += ["## Without a number", table(("case", "provider", "", "reason"), [_silent(line) for line in silent])]
    return "\n\n".join(parts) + "\n"


def times(lines: Iterable[Line]) -> str:
    """Every line: median of both passes, quintiles, share of the floor, memory."""
    head = (
        "shape",
        "dtype",
        "mode",
        "provider",
        "ms",
        "both passes",
        "launched",
        "of the floor",
        "extra MB",
        "cold",
        "does",
    )
    rows = []
    for line in lines:
        extra = "" if line["peak_extra_bytes"] is None else f"{line['peak_extra_bytes'] / 1e6:.1f}"
        rows.append(
            (
                *(line[name] for name in ("shape", "dtype", "mode", "provider")),
                f"{line['median_ms']:.4f}",
                " ".join(f"{ms:.4f}" for ms in line["passes_ms"]),
                f"{line['launched_ms']:.4f}",
                f"{line['floor_ms'] / line['median_ms']:.0%} ({line['floor']})",
                extra,
                "yes" if line["cold"] else "no",
                line["note"],
            )
        )
    return table(head, rows) if rows else tables.NOT_MEASURED


def _silent(line: Line) -> tuple[Any, ...]:
    reason = str(line.get("reason", "")).replace("|", "/").replace("\n", " ")[:160]
    return f"{line['shape']} {line['dtype']} {line['mode']}", line.get("provider", ""), line["kind"], reason


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def would_run() -> tuple[str, list[str]]:
    """What a run on a GPU would do: (text, ids of its tests)."""
    parts, ids = ["on a GPU this would run:"], []
    for name, selection in steps.TESTS.items():
        found = collect(selection)
        ids += found
        parts.append(f"  {name}: {len(found)} tests")
        parts += [f"    {count:5d} {path}" for path, count in sorted(Counter(i.split("::")[0] for i in found).items())]
    described = list(plan.describe())
    calls = sum(len(case.providers) for case in plan.PLAN)
    parts.append(f"  benchmarks: {len(plan.PLAN)} cases, {calls} timings, each in two passes")
    parts += [f"    {line}" for line in described]
    return "\n".join(parts), ids


def collect(selection: Sequence[str]) -> list[str]:
    """Ids of the tests that pytest would run.

    Raises:
        RuntimeError: It finds none, or cannot collect them.
    """
    command = [steps.PYTHON, "-m", "pytest", "--collect-only", "-q", *selection]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = [line for line in ran.stdout.splitlines() if "::" in line]
    if ran.returncode or not found:
        raise RuntimeError(f"benchmarks.gpu: pytest collects nothing of {' '.join(selection)}\n{ran.stdout[-1000:]}")
    return found
