"""Compile every Triton launch that a call makes for a GPU that is not here, and report what it would use there.

The launchers themselves run, on meta tensors, under a driver that only names its target; each launch is compiled as
on first use and then left unlaunched. What is called is data, a module of ``launches`` an op. Run as a script, one
process an architecture, since the interpreter that the other tests use replaces the compiler for a whole process.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from weft.kernels.common import device

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel uses. ``stack`` is bytes a thread keeps in local memory, spills among them.

    ``fp_fusion`` is whether the compiler may contract a product and a sum into one rounding.
    """

    kernel: str
    registers: int
    stack: int
    shared: int
    num_warps: int
    num_stages: int
    fp_fusion: bool


class NamedTarget:
    """A driver without a device: as much of one as it takes to choose a target and compile."""

    def __init__(self, arch: int) -> None:
        self.target = GPUTarget("cuda", arch, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled_launches(arch: int, call: Callable[[], Any]) -> Iterator[Usage]:
    """The usage of each kernel that ``call`` would launch on ``arch``, in order."""
    compiled = []
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        compiled.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    # never set back: Triton keeps what it compiled by device, and there is one device a process
    driver.set_active(NamedTarget(arch))
    with mock.patch.object(JITFunction, "run", compile_only):
        call()
    for kernel in compiled:
        yield _usage(kernel)


def _usage(kernel: Any) -> Usage:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", report)}
    metadata = kernel.metadata
    return Usage(
        kernel=metadata.name,
        registers=numbers["REG"],
        stack=numbers["STACK"] + numbers["LOCAL"],
        shared=metadata.shared,
        num_warps=metadata.num_warps,
        num_stages=metadata.num_stages,
        fp_fusion=metadata.enable_fp_fusion,
    )


def main() -> None:
    """Print one JSON object a launch: the case's name, the row's place in the launch table or null, and ``Usage``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("op", help="a module of launches: attention, lowrank_linear, ...")
    parser.add_argument("arch", type=int, help="compute capability without its point: 80, 86, 89, 90, 100, 120")
    parser.add_argument("cases", nargs="*", help="names of cases; all by default")
    given = parser.parse_args()
    # tensors without memory are tiled for it, too
    device.INTERPRETED_ARCH = given.arch
    for case in importlib.import_module(f"launches.{given.op}").cases(given.arch):
        if given.cases and case.name not in given.cases:
            continue
        for usage in compiled_launches(given.arch, case.run):
            kernel = usage.kernel.removeprefix(f"_{given.op}_").removeprefix("_").removesuffix("_kernel")
            launch = asdict(usage) | {"kernel": kernel, "case": case.name, "row": case.row(kernel, given.arch)}
            json.dump(launch, sys.stdout)
            print(flush=True)


if __name__ == "__main__":
    main()
