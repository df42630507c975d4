"""A pytest plugin: one JSON line a finished test, at once, so that a run which is stopped keeps what it has.

``pytest -p benchmarks.gpu.lines --lines FILE``. Under pytest-xdist it writes in the process that collects the reports.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

# the most telling of a test's three reports: a failed teardown fails a test that passed
RANK = {"passed": 0, "skipped": 1, "failed": 2}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lines", default=os.devnull, help="file to which one JSON line a test is appended")


class Lines:
    """Joins the reports of setup, call and teardown into one line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        line = self.found.setdefault(report.nodeid, {"test": report.nodeid, "outcome": "passed", "seconds": 0.0})
        line["seconds"] = round(float(str(line["seconds"])) + report.duration, 3)
        if RANK[report.outcome] > RANK[str(line["outcome"])]:
            line["outcome"] = report.outcome
            line["why"] = _why(report)
        if report.when == "teardown":
            with self.path.open("a") as file:
                file.write(json.dumps(self.found.pop(report.nodeid)) + "\n")


def _why(report: pytest.TestReport) -> str:
    """The reason of a skip, or the last lines of a failure."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return report.longreprtext[-500:]


def pytest_configure(config: pytest.Config) -> None:
    # a worker's reports reach the collecting process, and must not be written twice
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Lines(Path(config.getoption("--lines"))))


def read(path: Path) -> list[dict[str, object]]:
    """The lines of a file; none where no test finished."""
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def count(lines: list[dict[str, object]]) -> str:
    """Such as "12 passed, 1 failed"."""
    outcomes = Counter(str(line["outcome"]) for line in lines)
    return ", ".join(f"{outcomes[name]} {name}" for name in RANK if outcomes[name]) or "no test finished"
