"""Compile every Triton launch that a call makes for a GPU that is not here, and report what it would use there.

The launchers themselves run, on meta tensors, under a driver that only names its target; each launch is compiled as
on first use and then left unlaunched. Run as a script, one process an architecture, since the interpreter that the
other tests use replaces the compiler for a whole process.
"""

from __future__ import annotations

import argparse
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

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel uses. ``stack`` is bytes a thread keeps in local memory, spills among them."""

    kernel: str
    registers: int
    stack: int
    shared: int
    num_warps: int
    num_stages: int


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
    )
