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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from weft.kernels.attention import host, launch
from weft.kernels.attention.bwd import attention_bwd
from weft.kernels.attention.fwd import attention_fwd
from weft.kernels.attention.host import Call
from weft.kernels.attention.launch_table import TABLE, Row

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


@dataclass(frozen=True)
class Case:
    """One call whose launches are compiled: the shape of a real layer, forward and backward."""

    name: str
    samples: int
    heads: int
    seqlen_q: int
    seqlen_k: int
    head_dim: int
    tables: tuple[str, ...] = ()
    labels: tuple[int, int] = (4, 5)
    columns: int = 0
    dtype: str = "bfloat16"
    backward: bool = False
    padding: bool = False

    def run(self) -> None:
        """Launch everything this call would launch, on tensors without memory."""

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device="meta")

        dtype = getattr(torch, self.dtype)
        q, k, v = (
            empty(self.samples, length, self.heads, self.head_dim, dtype=dtype)
            for length in (self.seqlen_q, self.seqlen_k, self.seqlen_k)
        )
        rest: dict[str, torch.Tensor] = {name: empty(1, *self.labels) for name in self.tables}
        if self.tables:
            rest["query_labels"] = empty(self.samples, self.seqlen_q, dtype=torch.int32)
            rest["key_labels"] = empty(1, self.seqlen_k, dtype=torch.int32)
        if self.columns:
            rest["readout"] = empty(1, self.seqlen_k, self.columns)
        if self.padding:
            rest["key_padding"] = empty(self.samples, self.seqlen_k, dtype=torch.bool)
        call = Call(q, k, v, self.head_dim**-0.5, **rest)
        done = attention_fwd(call, keep_rows=self.backward)
        if self.backward:
            attention_bwd(call, done.out, done.maps, done, bool(self.tables), bool(self.columns))

    def row(self, kernel: str, arch: int) -> Row:
        """The row of the launch table by which this call launches ``kernel``."""
        itemsize = getattr(torch, self.dtype).itemsize
        width = launch.value_width(self.head_dim, self.columns)
        return launch.choose_row(kernel, arch, itemsize, width, self.seqlen_k)


ALL_TABLES = ("alpha", "beta", "gamma", "delta")
CASES = (
    Case("sdxl_64_plain", 2, 10, 4096, 77, 64),
    Case("sdxl_64_maps", 2, 10, 4096, 77, 64, columns=8),
    Case("sdxl_64_edit", 2, 10, 4096, 77, 64, ALL_TABLES, (4, 5), 8, backward=True),
    Case("sd15_64_edit", 2, 8, 4096, 77, 40, ALL_TABLES, (4, 5), 8, "float16"),
    Case("sd15_16_edit", 2, 8, 256, 77, 160, ALL_TABLES, (4, 77), 8, backward=True),
    Case("sd15_self_edit", 2, 8, 4096, 4096, 40, ("alpha", "beta", "gamma"), (4, 4)),
    Case("sd3_joint_maps", 2, 24, 4429, 4429, 64, columns=8),
    Case("flux_joint_maps", 1, 24, 4608, 4608, 128, columns=8, backward=True),
    Case("pixart_edit", 2, 16, 4096, 300, 72, ALL_TABLES, (4, 20), 8, padding=True),
    Case("widest", 1, 4, 512, 512, 256, ALL_TABLES, (4, 5), 8, backward=True),
    Case("many_columns", 2, 10, 4096, 300, 64, columns=128),
    Case("float32", 2, 8, 1024, 77, 80, ALL_TABLES, (4, 5), 8, "float32", backward=True),
)


def case_of(row: Row) -> Case:
    """A call that is launched by ``row``, with all that can be asked of its kernel."""
    few_keys = row.kernel == "fwd_short" or row.max_seqlen_k <= launch.MOST_SHORT_KEYS
    return Case(
        f"{row.kernel}_{8 * row.itemsize}_bits_{row.max_head_dim}",
        *(2, 8, 1024, 77 if few_keys else 300, row.max_head_dim, ALL_TABLES),
        columns=8,
        dtype={2: "float16", 4: "float32"}[row.itemsize],
        backward=row.kernel.startswith("bwd"),
        padding=True,
    )


def launches_of(arch: int, names: Sequence[str] = ()) -> Iterator[tuple[Case, Row, Usage]]:
    """What the named cases launch; without names all of them, and then whatever row in force none of them took."""
    taken: set[Row] = set()

    def launches(case: Case) -> Iterator[tuple[Case, Row, Usage]]:
        for usage in compiled_launches(arch, case.run):
            row = case.row(usage.kernel.removeprefix("_attention_").removesuffix("_kernel"), arch)
            taken.add(row)
            yield case, row, usage

    for case in CASES:
        if not names or case.name in names:
            yield from launches(case)
    for row in () if names else TABLE:
        case = case_of(row)
        if row not in taken and case.row(row.kernel, arch) == row:
            yield from launches(case)


def main() -> None:
    """Print one JSON object a launch: the case's name, the row's place in the table, and ``Usage``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arch", type=int, help="compute capability without its point: 80, 86, 89, 90, 100, 120")
    parser.add_argument("cases", nargs="*", help="names of cases; by default all, and all rows of the table")
    arguments = parser.parse_args()
    host.device_arch = lambda device: arguments.arch
    for case, row, usage in launches_of(arguments.arch, arguments.cases):
        json.dump({"case": case.name, "row": TABLE.index(row), **asdict(usage)}, sys.stdout)
        print(flush=True)


if __name__ == "__main__":
    main()
