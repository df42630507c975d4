"""What ptxas makes of every CUDA kernel, held to a budget: ``python tests/csrc/ptxas_report.py [--arch 90a ...]``.

Compiles the .cu files of csrc/ with nvcc, which needs no GPU, and prints registers, stack frame and spills of each
kernel. Exit status 1 if a kernel is over its budget or has none.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"
ARCHS = ("80", "89", "90a", "100a", "120")

# Registers a thread may take. Blocks have 128 threads and a multiprocessor 65536 registers, so 128 registers let four
# blocks live on it, 168 three and 255 two: what __launch_bounds__ asks for. Stack and spills are 0 for all.
BUDGET = {
    "attention_short<40, 80>": 128,
    "attention_short<64, 80>": 168,
    "attention_short<72, 80>": 168,
    "attention_short<80, 80>": 168,
    "attention_short<88, 80>": 168,
    "attention_short<96, 80>": 168,
    "attention_short<112, 80>": 255,
    "attention_short<128, 80>": 255,
    "attention_short<160, 80>": 255,
    "attention_short<256, 80>": 255,
    "attention_short<40, 128>": 168,
    "attention_short<64, 128>": 255,
    "attention_short<72, 128>": 255,
    "attention_short<80, 128>": 255,
    "attention_short<88, 128>": 255,
    "attention_short<96, 128>": 255,
    "attention_short<112, 128>": 255,
    "attention_short<128, 128>": 255,
    "attention_short<160, 128>": 255,
    "attention_short<256, 128>": 255,
    "attention_long<40>": 255,
    "attention_long<64>": 255,
    "attention_long<72>": 255,
    "attention_long<80>": 255,
    "attention_long<88>": 255,
    "attention_long<96>": 255,
    "attention_long<112>": 255,
    "attention_long<128>": 255,
    "attention_long<160>": 255,
    "attention_long<256>": 255,
    "mark_read_blocks": 32,
    "mean_over_heads": 48,
}


@dataclass(frozen=True)
class Kernel:
    """One line of the report."""

    file: str
    arch: str
    name: str  # without namespace, dtype and arguments; "edited" where it is the one for an edit
    registers: int
    stack: int
    spills: int  # bytes stored and loaded

    def faults(self) -> list[str]:
        """What is over budget."""
        allowed = BUDGET.get(self.name.removesuffix(" edited"))
        found = [] if allowed is not None else ["has no budget in tests/csrc/ptxas_report.py"]
        if allowed is not None and self.registers > allowed:
            found.append(f"takes {self.registers} registers, over {allowed}")
        if self.stack or self.spills:
            found.append(f"has {self.stack} bytes of stack and {self.spills} of spills")
        return [f"{self.file} for sm_{self.arch}: {self.name} {fault}" for fault in found]


def report(source: Path, arch: str) -> list[Kernel]:
    """Compile one file for one architecture, for example "90a".

    Raises:
        RuntimeError: nvcc does not compile it; the message is its own.
    """
    nvcc = shutil.which("nvcc")
    assert nvcc is not None
    target = f"-gencode=arch=compute_{arch},code=sm_{arch}"
    command = [nvcc, "-std=c++17", "-O3", target, "-cubin", "-Xptxas=-v", f"-I{CSRC}", f"-I{CSRC / 'include'}"]
    done = subprocess.run([*command, str(source), "-o", "/dev/null"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{source.name} for sm_{arch}:\n{done.stderr}")
    entry = re.compile(
        r"Compiling entry function '(\S+)'.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
        r"Used (\d+) registers",
        re.DOTALL,
    )
    return [
        Kernel(source.name, arch, plain_name(name), int(registers), int(stack), int(stores) + int(loads))
        for name, stack, stores, loads, registers in entry.findall(done.stderr)
    ]


def plain_name(mangled: str) -> str:
    """``attention_short<40, 80> edited`` of a mangled kernel: its name and its template arguments but the dtype."""
    match = re.match(r"_ZN4weft(\d+)", mangled)
    if match is None:
        return mangled
    start = match.end()
    name = mangled[start : start + int(match.group(1))].removesuffix("_kernel")
    arguments = mangled[start + int(match.group(1)) :].split("EEv")[0] + "E"
    numbers = re.findall(r"Li(\d+)E", arguments)
    return (f"{name}<{', '.join(numbers)}>" if numbers else name) + (" edited" if "Lb1E" in arguments else "")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Hold every CUDA kernel to its budget of registers.")
    parser.add_argument("--arch", nargs="+", default=ARCHS, help=f"of sm_<arch>; default {' '.join(ARCHS)}")
    parser.add_argument("--file", nargs="+", help="stems of .cu files, such as attention_half_40; default all")
    parser.add_argument("--jobs", type=int, default=1, help="compilers at the same time")
    options = parser.parse_args(arguments)
    if shutil.which("nvcc") is None:
        print("needs nvcc on PATH")
        return 2
    sources = sorted(path for path in CSRC.rglob("*.cu") if options.file is None or path.stem in options.file)
    with ThreadPoolExecutor(options.jobs) as pool:
        work = [(source, arch) for arch in options.arch for source in sources]
        kernels = [kernel for found in pool.map(lambda pair: report(*pair), work) for kernel in found]
    print("| file | sm | kernel | registers | stack | spills |\n|---|---|---|---|---|---|")
    for k in kernels:
        print(f"| {k.file} | {k.arch} | {k.name} | {k.registers} | {k.stack} | {k.spills} |")
    faults = [fault for kernel in kernels for fault in kernel.faults()]
    print(f"\n{len(kernels)} kernels, {len(faults)} over budget", *faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
