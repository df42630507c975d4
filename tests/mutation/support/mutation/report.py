"""What came of the planted faults: a line each, and a summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from mutation.fault import KINDS, ROOT, Fault

RESULTS = ROOT / "tests/mutation/results.jsonl"
REPORT = ROOT / "tests/mutation/report.md"


@dataclass(frozen=True)
class Result:
    """What came of one fault.

    Attributes:
        name: ``Fault.name``.
        outcome: "found", "survived", or "broken" where it could not be planted, compiled or tested.
        by: The first test that failed, or what else happened.
        digest: Of the file and the tests that it ran with.
    """

    name: str
    language: str
    kind: str
    file: str
    old: str
    new: str
    outcome: str
    by: str
    digest: str

    @classmethod
    def of(cls, fault: Fault, language: str, outcome: str, by: str, digest: str) -> Result:
        return cls(fault.name, language, fault.kind, fault.file, fault.old, fault.new, outcome, by, digest)


def read_results() -> dict[str, Result]:
    """By ``Fault.name``."""
    if not RESULTS.exists():
        return {}
    rows = [Result(**json.loads(line)) for line in RESULTS.read_text().splitlines()]
    return {row.name: row for row in rows}


def write_results(results: Mapping[str, Result]) -> None:
    rows = sorted(results.values(), key=lambda row: (row.language, row.file, row.name))
    part = RESULTS.with_suffix(".part")
    part.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    part.replace(RESULTS)


def add_result(result: Result) -> None:
    """Keep one result, beside those that another run may have added meanwhile."""
    with RESULTS.open("a") as rows:
        rows.write(json.dumps(asdict(result)) + "\n")


def score(results: Mapping[str, Result]) -> float:
    """Share of the faults that were found, of those that ran."""
    ran = [row.outcome for row in results.values() if row.outcome != "broken"]
    return ran.count("found") / len(ran)


def report(results: Mapping[str, Result], faults: Mapping[str, Sequence[Fault]]) -> str:
    """The summary, as Markdown."""
    rows = [row for row in results.values() if row.outcome != "broken"]
    listed = sum(map(len, faults.values()))
    lines = ["# Planted faults", "", "Written by `make mutate`. A fault is found if a test named beside it fails.", ""]
    if rows:
        found = sum(row.outcome == "found" for row in rows)
        lines += [f"{listed} faults, {len(rows)} run, {found} found: {100 * score(results):.1f} %.", ""]
    for title, of, keys in (("Language", "language", list(faults)), ("Kind", "kind", KINDS)):
        ran = Counter(getattr(row, of) for row in rows)
        hit = Counter(getattr(row, of) for row in rows if row.outcome == "found")
        lines += [f"| {title} | Run | Found |", "|---|---:|---:|"]
        lines += [f"| {key} | {ran[key]} | {hit[key]} |" for key in keys] + [""]
    left = [row for row in rows if row.outcome == "survived"]
    if left:
        lines += ["Not found:", ""] + [f"- `{row.file}`: `{row.old}` -> `{row.new}` ({row.kind})" for row in left]
    return "\n".join(lines).rstrip() + "\n"


def write_report(results: Mapping[str, Result], faults: Mapping[str, Sequence[Fault]]) -> str:
    text = report(results, faults)
    REPORT.write_text(text)
    return text
