"""Stages end as they should: passed, failed, out of time with everything they started, skipped; none costs another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import lines, stages, steps, summary
from benchmarks.gpu.stages import Stage, run, run_all

ROOT = Path(__file__).resolve().parents[3]


def python(name: str, program: str, seconds: float = 20, **how) -> Stage:
    return Stage(name, (sys.executable, "-c", program), seconds, **how)


def test_passed_and_failed(tmp_path):
    outcomes = run_all(
        (python("a b", "print('first'); print('done')"), python("c", "raise SystemExit(3)")), 60, tmp_path
    )
    assert [(o.status, o.summary) for o in outcomes] == [("passed", "done"), ("failed", "it said nothing")]
    assert [o.good for o in outcomes] == [True, False]
    assert (tmp_path / "a-b.log").read_text() == "first\ndone\n"
    assert outcomes[0].command.startswith("python -c")


def test_out_of_time_ends_the_whole_family(tmp_path):
    child = tmp_path / "child"
    program = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(child)!r}, 'w').write(str(p.pid))\n"
        "time.sleep(60)"
    )
    outcome = run(python("slow", program), 2, tmp_path)
    assert outcome.status == "out of time" and outcome.seconds < 15
    pid = int(child.read_text())
    for _ in range(100):
        try:
            # a zombie still has a number; it is gone or waits to be collected
            state = Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
        except FileNotFoundError:
            break
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        os.kill(pid, 9)
        pytest.fail("the child went on")


def test_a_stage_that_cannot_run_says_why(tmp_path):
    outcome = run(python("a", "raise SystemExit(1)", usable=lambda: "no such tool"), 5, tmp_path)
    assert (outcome.status, outcome.summary, outcome.good) == ("skipped", "no such tool", True)


def test_a_stage_may_summarise_what_it_printed(tmp_path):
    program = "print('{\"stack\": 8}'); print('{\"stack\": 112}')"
    stage = python("a", program, summarise=steps.count_launches)
    assert run(stage, 20, tmp_path).summary == "2 launches compiled for sm_90, up to 112 bytes of stack a thread"
    broken = python("a", "print('half a line'); raise SystemExit(1)", summarise=steps.count_launches)
    assert run(broken, 20, tmp_path).summary == "half a line"


def test_seconds_and_environment_reach_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("LEFT_OUT", "1")
    program = "import os, sys; print(sys.argv[1], os.environ['GIVEN'], 'LEFT_OUT' in os.environ)"
    stage = Stage(
        "a",
        (sys.executable, "-c", program, "{seconds}"),
        20,
        environment={"GIVEN": "x", "LEFT_OUT": None},
        reserve=5,
    )
    assert run(stage, 20, tmp_path).summary == "15 x False"


def test_the_greedy_get_what_is_left_and_the_late_nothing(tmp_path):
    program = "import sys; print(sys.argv[1])"
    greedy = Stage("greedy", (sys.executable, "-c", program, "{seconds}"), 1, greedy=True)
    modest = Stage("modest", (sys.executable, "-c", program, "{seconds}"), 7)
    summaries = [int(o.summary) for o in run_all((modest, greedy), 100, tmp_path)]
    assert summaries[0] == 7 and 80 <= summaries[1] <= 100
    late = run_all((python("a", "pass"),), 0.5, tmp_path)
    assert late[0].status == "out of time"


TESTS = """
import pytest
def test_good(): pass
def test_bad(): assert 1 == 2
@pytest.mark.skip(reason="for a reason")
def test_skipped(): pass
@pytest.fixture
def leaving():
    yield
    assert False, "while leaving"
def test_bad_at_the_end(leaving): pass
def test_slow():
    import os, time
    time.sleep(float(os.environ.get("SLEEP", "0")))
"""


@pytest.fixture
def some_tests(tmp_path) -> Path:
    path = tmp_path / "test_some.py"
    path.write_text(TESTS)
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_one_line_a_test(some_tests, tmp_path, workers):
    stage = Stage("tests", steps.pytest(str(some_tests), "-c", os.devnull, workers=workers), 60)
    outcome = run(stage, 60, tmp_path / "logs")
    assert outcome.status == "failed" and outcome.summary == "2 passed, 1 skipped, 2 failed"
    found = {str(test["test"]).split("::")[1]: test for test in outcome.tests}
    assert (
        found["test_bad_at_the_end"]["outcome"] == "failed" and "while leaving" in found["test_bad_at_the_end"]["why"]
    )
    assert "for a reason" in found["test_skipped"]["why"] and "why" not in found["test_good"]


def test_a_hanging_test_costs_no_finished_one(some_tests, tmp_path):
    stage = Stage("tests", steps.pytest(str(some_tests), "-c", os.devnull), 60, environment={"SLEEP": "60"})
    outcome = run(stage, 12, tmp_path / "logs")
    assert outcome.status == "out of time" and outcome.summary == "1 passed, 1 skipped, 2 failed"


def test_nothing_tested_is_not_passed(some_tests, tmp_path):
    stage = Stage("tests", steps.pytest(str(some_tests), "-c", os.devnull, "-k", "skipped"), 60)
    outcome = run(stage, 60, tmp_path / "logs")
    assert outcome.status == "failed" and outcome.summary.endswith("nothing was tested")


def test_counting():
    assert lines.count([]) == "no test finished"
    assert lines.count([{"outcome": "failed"}, {"outcome": "passed"}]) == "1 passed, 1 failed"


def test_a_gpu_run_fits_its_time_and_names_what_there_is():
    found = steps.on_a_gpu("run", "results")
    assert [stage.name for stage in found] == [
        "build",
        "device tests",
        "op tests",
        "memcheck",
        "racecheck",
        "benchmarks",
    ]
    before = sum(stage.seconds for stage in found if not stage.greedy)
    assert steps.TOTAL < 540 and steps.TOTAL - before >= 120
    assert found[-1].greedy and "{seconds}" in found[-1].command
    for stage in (*found, *steps.without_a_gpu(True), *steps.without_a_gpu(False)):
        for word in stage.command:
            if word.startswith(("tests/", "setup.py")):
                assert (ROOT / word).exists(), word


@pytest.mark.long
def test_the_tests_of_a_gpu_run_can_be_collected():
    """Each selection finds tests of both backends, and the reduced set of the sanitizer is small."""
    counts = {}
    for name, selection in steps.TESTS.items():
        ids = summary.collect(selection)
        assert any("cuda" in i for i in ids) and any("triton" in i for i in ids), name
        assert not any("[cpu" in i or "-cpu-" in i for i in ids), name
        counts[name] = len(ids)
    assert any("ops/regions/test_triton" in i for i in summary.collect(steps.OP_TESTS))
    assert 4 <= counts["compute-sanitizer"] <= 12 < counts["device tests"] < counts["op tests"]
    with pytest.raises(RuntimeError, match="collects nothing"):
        summary.collect(("tests/benchmarks/test_figures.py", "-k", "no_such_test"))


def test_without_a_gpu_a_run_refuses_and_says_what_to_do():
    command = [sys.executable, "-m", "benchmarks.gpu"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "--dry-run does what can be done without" in ran.stderr
    ran = subprocess.run([*command, "--full"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and "`--full` belongs to a dry run" in ran.stderr


def test_records_are_written_as_json(tmp_path):
    outcome = stages.Outcome("a", "passed", 1.26, "fine", "python x")
    (line,) = summary.stage_lines([outcome])
    assert json.loads(json.dumps(line))["seconds"] == 1.3
