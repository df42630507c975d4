"""What the pages hold of the results is what the results say now."""

from __future__ import annotations

from pathlib import Path

from benchmarks import report
from benchmarks.reporting import tables

ROOT = Path(__file__).resolve().parents[2]


def test_generated_parts_are_those_of_the_results() -> None:
    for name, parts in report.pages(tables.RESULTS).items():
        text = (ROOT / name).read_text()
        assert report.between_markers(text, parts) == text, f"{name}: run `python -m benchmarks.report --root .`"
