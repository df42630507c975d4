"""No sanitizer reports anything of the native code, and each reports what is planted for it.

The first test takes minutes and replaces none: before it, nothing watched the memory of the kernels.
"""

from __future__ import annotations

import shutil

import pytest
import sanitize
from sanitized_driver import SANITIZERS, Fault, build_driver, run_driver

pytestmark = [
    pytest.mark.long,
    pytest.mark.serial,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ with libasan and libtsan"),
]

LOWRANK_LINEAR = "csrc/lowrank_linear/lowrank_linear_cpu.cpp"
FAULTS = (
    # the end of a row is written as a whole vector
    Fault(
        "store",
        sanitizer="address",
        op="lowrank_linear",
        isa="wide",
        file="csrc/include/weft/simd.h",
        before="  if (n >= kLanes) return store(p, x);\n  T lanes",
        after="  return store(p, x);\n  T lanes",
        sources=(LOWRANK_LINEAR,),
        report="AddressSanitizer",
    ),
    # many concepts of a few ranks take more of the workspace than one of as many ranks
    Fault(
        "workspace",
        sanitizer="address",
        op="lowrank_linear",
        isa="scalar",
        file=LOWRANK_LINEAR,
        before="fits = fits && holds(tile_.h, used, (count + kRowSlack) * units);",
        after="",
        sources=(LOWRANK_LINEAR,),
        report="use-after-poison",
    ),
    # what was computed of some rows joins others
    Fault(
        "row",
        sanitizer="address",
        op="lowrank_linear",
        isa="scalar",
        file=LOWRANK_LINEAR,
        before="sums + term.rows[r] * kStrip",
        after="sums + r * kStrip",
        sources=(LOWRANK_LINEAR,),
        report="wrong: out[",
    ),
    # a task may run twice, or on two threads under one number
    Fault(
        "race",
        sanitizer="thread",
        op="parallel_for",
        isa="scalar",
        file="csrc/device/parallel.cpp",
        before="std::atomic<int64_t> next{0};",
        after="struct { int64_t value = 0; int64_t fetch_add(int64_t n, int) { return (value += n) - n; } } next;",
        sources=("csrc/device/parallel.cpp",),
        report="data race",
    ),
)


def test_nothing_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    status = sanitize.main([])
    assert status == 0, capfd.readouterr().out


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_reported(fault: Fault) -> None:
    sanitizer = SANITIZERS[fault.sanitizer]
    arguments = ("--op", fault.op, "--isa", fault.isa, "--count", "250")
    clean = run_driver(build_driver(sanitizer), sanitizer, *arguments)
    assert clean.returncode == 0, clean.stdout
    found = run_driver(build_driver(sanitizer, fault), sanitizer, *arguments)
    assert found.returncode != 0
    assert fault.report in found.stdout, found.stdout
    assert f"--op {fault.op} --isa {fault.isa} --seed 0 --from" in found.stdout
