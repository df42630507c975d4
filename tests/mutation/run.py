"""Plant faults, one at a time, and see whether the tests find them: ``make mutate``; minutes to hours, not in CI.

The faults are data (support/mutation). Each is planted in a copy of the tree, where what it needs is built again and
the tests named beside it run. A failing test, a crash or a test that does not end has found it. Without any fault the
same tests must pass first. What was found is kept in results.jsonl, and only faults whose file or tests have changed
since run again; report.md sums up. Several runs may go side by side, as of different languages.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))

from mutation import FAULTS, ROOT, Fault
from mutation.copy import Copy
from mutation.report import Result, add_result, read_results, write_report, write_results
from mutation.testing import Run, load_libraries, log_of, run_tests

# exit codes of pytest: a selection that it does not understand, or one without tests
USAGE_ERROR, NO_TESTS = 4, 5
# seconds for tests without a fault
PATIENCE = 1800


class Mutation:
    """Runs faults in one copy of the tree."""

    def __init__(self) -> None:
        self._copy = Copy()
        self._known: dict[str, Run] = {}  # tests without a fault

    def outcome(self, fault: Fault) -> tuple[str, str]:
        """ "found", "survived" or "broken", and by what."""
        path = self._copy.path / fault.file
        whole = path.read_text()
        try:
            planted = fault.planted(whole)
        except LookupError as error:
            return "broken", str(error)
        without_fault = self._without_fault(fault.tests)
        if without_fault.code != 0:
            return "broken", "without a fault its tests fail"
        limit = 60 + 10 * without_fault.seconds
        try:
            path.write_text(planted)
            if said := self._copy.build_native():
                return "broken", f"it does not compile: {said.strip().splitlines()[-1]}"
            run = run_tests(self._copy, fault.tests, limit, log_of(fault.name))
        finally:
            path.write_text(whole)
        return _judged(run)

    def _without_fault(self, tests: str) -> Run:
        """The tests as they are, run once."""
        if tests not in self._known:
            if said := self._copy.build_native():
                sys.exit(f"mutate: the native module does not compile without a fault:\n{said}")
            log = log_of(hashlib.sha256(tests.encode()).hexdigest()[:12])
            self._known[tests] = run = run_tests(self._copy, tests, PATIENCE, log)
            print(f"{run.seconds:7.1f} s  {tests}" + (f" FAIL: see {log}" if run.code else ""), flush=True)
        return self._known[tests]


def _judged(run: Run) -> tuple[str, str]:
    if run.code == 0:
        return "survived", ""
    if run.code in (USAGE_ERROR, NO_TESTS):
        return "broken", "no tests"
    if run.compile_error:
        return "broken", run.compile_error
    if run.code is None:
        return "found", "it does not end"
    return "found", run.failed or f"exit status {run.code}"


def digest(fault: Fault) -> str:
    """Of what decides whether a fault is found, as far as it is near: its file and its tests."""
    text = hashlib.sha256(f"{fault.kind}\0{fault.tests}\0".encode())
    for path in (ROOT / fault.file, *fault.test_files):
        text.update(path.read_bytes() if path.is_file() else b"")
    return text.hexdigest()[:16]


def in_turns(languages: list[str]) -> list[tuple[str, Fault]]:
    """Every fault; each language has its turn, so that a run that is cut short has seen all of them."""
    shares = [
        (place / len(FAULTS[name]), name, fault) for name in languages for place, fault in enumerate(FAULTS[name])
    ]
    return [(name, fault) for _, name, fault in sorted(shares, key=lambda row: row[0])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=FAULTS, action="append", help="only these")
    parser.add_argument("--only", metavar="TEXT", action="append", help="only faults of files with TEXT in their path")
    parser.add_argument("--survivors", action="store_true", help="run again what was not found, and nothing else")
    parser.add_argument("--all", action="store_true", help="run again what has not changed, too")
    parser.add_argument("--report", action="store_true", help="run nothing; write the report again")
    arguments = parser.parse_args()

    known = read_results()

    def is_wanted(fault: Fault) -> bool:
        result = known.get(fault.name)
        if arguments.report or not any(text in fault.file for text in arguments.only or [""]):
            return False
        if arguments.survivors:
            return result is not None and result.outcome != "found"
        return arguments.all or result is None or result.digest != digest(fault)

    wanted = [row for row in in_turns(arguments.language or list(FAULTS)) if is_wanted(row[1])]
    if wanted:
        print(f"{len(wanted)} faults", flush=True)
        load_libraries()
        mutation = Mutation()
        for language, fault in wanted:
            outcome, by = mutation.outcome(fault)
            add_result(Result.of(fault, language, outcome, by, digest(fault)))
            print(f"{outcome:9} {fault.file}: {fault.old!r} -> {fault.new!r}  {by}", flush=True)
    there = {fault.name for faults in FAULTS.values() for fault in faults}
    write_results({name: result for name, result in read_results().items() if name in there})
    print(write_report(read_results(), FAULTS))


if __name__ == "__main__":
    main()
