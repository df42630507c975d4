"""Peak memory of a call beyond its inputs and its result, measured in a process of its own.

The process asks the C library to give every block of a page or more back at once (``ALLOCATOR``), so that the
high-water mark of its resident memory is that of the call and not of an earlier one.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import registry
from benchmarks.registry import Call

# a page: blocks that stay with the process would be missing from what the next call is seen to need. With 64 KiB a
# training step of one picture at a time, whose tensors are smaller, seemed to need 83 MB where it needs 196
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4096", "MALLOC_TRIM_THRESHOLD_": "4096", "MALLOC_TOP_PAD_": "0"}


def peak_extra_bytes(call: Call, repeats: int = 3) -> int | None:
    """The largest growth of resident memory while ``call`` runs, its result included; None where it cannot be read.

    The smallest of several repeats: what the system does by itself only adds.
    """
    call()
    growths = []
    for _ in range(repeats):
        gc.collect()
        try:
            # 5 sets the high-water mark back to what is resident now (Linux, proc_pid_clear_refs)
            Path("/proc/self/clear_refs").write_text("5")
            before = _status_bytes("VmRSS")
            result = call()
            growths.append(_status_bytes("VmHWM") - before)
        except OSError:
            return None
        del result
    return max(min(growths), 0)


def measure(op: str, shape: str, dtype: str, mode: str, providers: tuple[str, ...], threads: int) -> dict[str, int]:
    """Bytes beyond the result by provider, from a fresh process; those that cannot be measured are left out.

    Raises:
        RuntimeError: The process failed; its last lines are in the message.
    """
    arguments = [op, shape, dtype, mode, ",".join(providers), str(threads)]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.measuring.memory", *arguments],
        env={**os.environ, **ALLOCATOR},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"benchmarks: measuring memory failed\n{ran.stderr[-2000:]}")
    found: dict[str, int] = json.loads(ran.stdout.splitlines()[-1])
    return found


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def main() -> None:
    op, shape_name, dtype_name, mode_name, names, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    benchmark = registry.load(op)
    (shape,) = registry.select("shape", benchmark.shapes, (shape_name,))
    (mode,) = registry.select("mode", benchmark.modes, (mode_name,))
    inputs = benchmark.make_inputs(shape, benchmark.dtypes[dtype_name], mode)
    found = {}
    for provider in registry.select("provider", mode.providers, tuple(names.split(","))):
        peak = peak_extra_bytes(provider.prepare(inputs))
        if peak is not None:
            found[provider.name] = max(peak - benchmark.result_bytes(inputs), 0)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
