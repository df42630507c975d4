"""The stages of a run on a GPU, and of a dry run, as data: commands, budgets, when they can run."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable

from benchmarks.gpu.stages import Stage

PYTHON = sys.executable
# a whole run on a GPU ends within this, in seconds
TOTAL = 525.0
# workers of pytest that share the GPU: what takes time is compiling, on the host
WORKERS = 6

ON_DEVICE = (
    "tests/ops/attention/test_device.py",
    "tests/ops/lowrank_linear/test_device.py",
    "tests/ops/contrastive_loss/test_device.py",
)
DEVICE_TESTS = (*ON_DEVICE, "-m", "gpu")
# whatever runs on a GPU by its name; the files about Triton, of either op, and CUDA are matched by theirs
OP_TESTS = (
    *("tests/ops", "tests/csrc/test_attention_cuda.py", *(f"--ignore={path}" for path in ON_DEVICE)),
    *("-k", "cuda or triton"),
)
# compiles for GPUs that are not here; an op is to be named behind it
CROSS = ("tests/triton/test_cross_compile.py", "-k")
REDUCED = (
    "tests/ops/attention/test_device.py",
    "-m",
    "gpu",
    "-k",
    "reduced_set and bf16 and (40 or 160) and (77 or 333)",
)
TESTS = {"device tests": DEVICE_TESTS, "op tests": OP_TESTS, "compute-sanitizer": REDUCED}

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# a dry run is the same on a machine with a GPU and on one without
NO_GPU = {**ONE_THREAD, "CUDA_VISIBLE_DEVICES": ""}


def pytest(*arguments: str, workers: int = 0) -> tuple[str, ...]:
    """A command whose tests are written to "{lines}" one by one."""
    spread = ("-n", str(workers)) if workers and importlib.util.find_spec("xdist") else ()
    lines = ("-p", "benchmarks.gpu.lines", "--lines", "{lines}")
    return (PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", *lines, *spread, *arguments)


def on_a_gpu(run: str, results: str) -> tuple[Stage, ...]:
    """Build, tests, sanitizer, then the benchmarks with all the time that is left."""
    build = (PYTHON, "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "-e", ".")
    sanitizer = ("compute-sanitizer", "--error-exitcode", "86", "--target-processes", "all", "--tool")
    measure = (PYTHON, "-m", "benchmarks.gpu.measure", "--seconds", "{seconds}", "--run", run, "--out", results)
    return (
        Stage("build", build, 110),
        Stage("device tests", pytest(*DEVICE_TESTS, workers=WORKERS), 80, environment=ONE_THREAD),
        Stage("op tests", pytest(*OP_TESTS, workers=WORKERS), 110, environment=ONE_THREAD),
        Stage(
            "memcheck",
            (*sanitizer, "memcheck", *pytest(*REDUCED)),
            40,
            sanitizer_problem,
            # torch's own pool would hide an access beyond the end of one tensor in the next
            environment={**ONE_THREAD, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        ),
        Stage(
            "racecheck", (*sanitizer, "racecheck", *pytest(*REDUCED)), 40, sanitizer_problem, environment=ONE_THREAD
        ),
        Stage("benchmarks", measure, TOTAL, greedy=True, reserve=25),
    )


def sanitizer_problem() -> str:
    """Why compute-sanitizer cannot be used here, "" if it can: it may be there and refuse the device."""
    if shutil.which("compute-sanitizer") is None:
        return "compute-sanitizer is not on PATH"
    program = "import torch; torch.ones(1, device='cuda').add_(1).item()"
    command = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "86", PYTHON, "-c", program]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return "compute-sanitizer does not finish one addition in 60 s"
    said = [line.strip("= ") for line in ran.stdout.splitlines() if line.strip("= ")]
    return "" if ran.returncode == 0 else f"compute-sanitizer refuses one addition: {' / '.join(said[:2])[:200]}"


def without_a_gpu(full: bool) -> tuple[Stage, ...]:
    """What a machine without a GPU can do of it: compile for those that are not here, execute under emulation.

    Args:
        full: All launches, architectures and tests of their kind; otherwise some of each, for a few minutes.
    """
    build = (PYTHON, "setup.py", "-q", "build_ext", "--build-lib", "build/gpu/lib")
    ptxas = (PYTHON, "tests/csrc/ptxas_report.py", "--jobs", "2")
    ptxas_some = ("--arch", "90a", "--file", "attention", "attention_half_40", "attention_bfloat_64")
    few_cases = ("attention", "90", "sdxl_64_plain", "sd15_64_edit", "flux_joint_maps")
    cross = pytest(*CROSS, "attention") if full else (PYTHON, "tests/triton/cross_compile.py", *few_cases)
    emulated = ("tests/cuda_emulation", *(() if full else ("-k", "layouts or readouts")))
    interpreted = (
        "tests/ops/attention/test_triton.py",
        "tests/ops/attention/test_triton_gradients.py",
        "tests/ops/regions/test_triton.py",
        "tests/ops/regions/test_gate_triton.py",
        "tests/ops/lowrank_linear/test_triton.py",
        "tests/ops/lowrank_linear/test_triton_gradients.py",
        "tests/ops/contrastive_loss/test_triton.py",
        "tests/ops/pairwise_error/test_triton.py",
    )
    some = () if full else ("-k", "key_lengths or each_result or twice or real_grids")
    archs = "80 86 89 90 100 120" if full else "90"
    # the interpreter would take the compiler's place; "0" is not enough to leave it
    compiler = {**NO_GPU, "TRITON_INTERPRET": None, "WEFT_CROSS_COMPILE": archs}
    factor = 10 if full else 1
    return (
        Stage("build", build, 900, environment=NO_GPU),
        Stage("nvcc and ptxas", (*ptxas, *(() if full else ptxas_some)), 240 * factor, needs_nvcc, NO_GPU),
        Stage(
            "triton for other devices",
            cross,
            120 * factor,
            needs("triton"),
            compiler,
            summarise=None if full else count_launches,
        ),
        Stage("regions for other devices", pytest(*CROSS, "regions"), 120 * factor, needs("triton"), compiler),
        Stage(
            "lowrank_linear for other devices",
            pytest(*CROSS, "lowrank_linear"),
            180 * factor,
            needs("triton"),
            compiler,
        ),
        Stage(
            "contrastive losses for other devices",
            pytest(*CROSS, "contrastive_loss or pairwise_error"),
            120 * factor,
            needs("triton"),
            compiler,
        ),
        Stage("cuda kernels, emulated", pytest(*emulated), 240 * factor, environment=NO_GPU),
        Stage("triton kernels, interpreted", pytest(*interpreted, *some), 240 * factor, needs("triton"), NO_GPU),
        Stage("device tests, on the CPU", pytest(*ON_DEVICE), 300, environment=NO_GPU),
        Stage("providers and timing, on the CPU", pytest("tests/benchmarks/gpu"), 300, environment=NO_GPU),
    )


def count_launches(printed: str) -> str:
    """What ``cross_compile.py`` printed, one JSON line a launch, in a sentence."""
    launches = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    stack = max((launch["stack"] for launch in launches), default=0)
    return f"{len(launches)} launches compiled for sm_90, up to {stack} bytes of stack a thread"


def needs_nvcc() -> str:
    return "" if shutil.which("nvcc") else "nvcc is not on PATH"


def needs(package: str) -> Callable[[], str]:
    return lambda: "" if importlib.util.find_spec(package) else f"{package} is not installed"
