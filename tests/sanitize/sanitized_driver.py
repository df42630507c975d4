"""Builds the driver under a sanitizer, by ninja in build/sanitize, so that a second build is short; runs it.

Objects are compiled as build_native.py compiles them, one per instruction set where it does so, at another level of
optimisation. Beside its instruction sets there are two of sixteen lanes in plain code, which every processor runs.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "sanitize"
OPS = ("attention", "lowrank_linear", "parallel_for")
UNWATCHED = [HERE / f"{name}.cpp" for name in ("attention_case", "driver", "lowrank_linear_case", "operand")]


def _load_build_native() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_native", ROOT / "build_native.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# the repository's root stays off the path, where `kernels` would hide a package of that name
native = _load_build_native()


@dataclass(frozen=True)
class InstructionSet:
    """A row of ``WEFT_FOR_EACH_ISA``: what the processor must have, and what else the compiler is given."""

    name: str
    features: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()

    def flags(self) -> list[str]:
        return [f"-m{feature}" for feature in self.features] + [f"-D{define}" for define in self.defines]


# sixteen lanes and pairs of bf16 as AVX-512 has them; the second with the tiles of AMX
WIDE = (
    InstructionSet("wide", defines=("WEFT_PORTABLE_LANES=16",)),
    InstructionSet("wide_tiles", defines=("WEFT_PORTABLE_LANES=16", "WEFT_EMULATE_AMX")),
)


@dataclass(frozen=True)
class Sanitizer:
    """What the compiler plants, how its run-time part behaves, and what is worth its time."""

    name: str
    flags: tuple[str, ...]
    environment: dict[str, str]
    instruction_sets: tuple[str, ...] | None  # None for all: threads are shared out alike in every one
    cases: int  # of an op, by default


SANITIZERS = {
    "address": Sanitizer(
        "address",
        ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        {
            # memory that is not written reads as NaN, so that the numbers show who uses it
            "ASAN_OPTIONS": "detect_stack_use_after_return=1:max_malloc_fill_size=1073741824:malloc_fill_byte=255",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
        None,
        10_500,
    ),
    "thread": Sanitizer(
        "thread",
        ("-O1", "-fsanitize=thread"),
        {"TSAN_OPTIONS": "halt_on_error=1"},
        ("scalar", "avx2"),
        2_000,
    ),
}


def instruction_sets(sanitizer: Sanitizer) -> list[InstructionSet]:
    """Those that the compiler knows, weakest first. Which of them run here the driver knows."""
    compiler = native.cxx_compiler()
    rows = [InstructionSet(name, features) for name, features in native.INSTRUCTION_SETS.items()]
    known = [*(row for row in rows if native.accepts(compiler, row.flags())), *WIDE]
    wanted = sanitizer.instruction_sets
    return [row for row in known if wanted is None or row.name in wanted]


@dataclass(frozen=True)
class Fault:
    """A change of one file of csrc/ that a sanitizer must report."""

    name: str
    sanitizer: str
    op: str
    isa: str
    file: str
    before: str
    after: str
    sources: tuple[str, ...]  # that must be compiled again
    report: str  # what the report says


def build_driver(sanitizer: Sanitizer, fault: Fault | None = None) -> Path:
    """Compile what changed, and link.

    A driver with a fault has a folder of its own. It takes the objects that the fault does not reach from the driver
    without, which must be built.
    """
    clean = BUILD / sanitizer.name
    folder = clean if fault is None else BUILD / f"{sanitizer.name}-{fault.name}"
    isas = instruction_sets(sanitizer)
    config = native.build_config({isa.name: isa.features for isa in isas}, None)
    native.write_if_changed(clean / "include/weft/build_config.h", config)
    includes = [clean / "include", CSRC / "include", CSRC, HERE]
    if fault is not None:
        plant(fault, folder)
        includes = [folder / "csrc/include", folder / "csrc", *includes]
    flags = [flag for flag in native.CXX_FLAGS if flag not in ("-O3", "-fvisibility=hidden")]
    # gcc 12 takes the undefined vectors of its own headers for mistakes; no vector crosses an object's border
    flags += ["-g1", "-fno-omit-frame-pointer", "-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-psabi"]
    flags += [f"-I{path}" for path in includes]
    compiler = native.cxx_compiler()

    ninja = native.NinjaFile(folder)
    for source, isa in objects(isas):
        place = source.relative_to(ROOT)
        name = f"{place.with_suffix('')}.{isa.name}.o" if isa else f"{place.with_suffix('')}.o"
        if fault is not None and not (place.as_posix() in fault.sources and (isa is None or isa.name == fault.isa)):
            ninja.objects.append(str(clean / name))
            continue
        changed = folder / place
        own = [*isa.flags(), f"-DWEFT_ISA={isa.name}"] if isa else []
        # drawing a case and summing it again would take longer than the kernel, and are not what is watched
        watched = ["-O2"] if source in UNWATCHED else sanitizer.flags
        ninja.objects.append(name)
        ninja.edge("cxx", name, [str(changed if changed.exists() else source)], compiler, [*flags, *watched, *own])
    ninja.link("driver", compiler, [*sanitizer.flags, "-pthread", "-ldl"])
    if not ninja.run():
        raise native.BuildError(f"{folder.name}: the driver did not compile; the compiler's messages are above")
    return folder / "driver"


def objects(isas: list[InstructionSet]) -> list[tuple[Path, InstructionSet | None]]:
    """Every source, with the instruction set it is compiled for where there is one object for each."""
    found: list[tuple[Path, InstructionSet | None]] = [(source, None) for source in sorted(HERE.glob("*.cpp"))]
    for source in sorted(CSRC.glob("*/*.cpp")):
        per_isa = source.name == f"{source.parent.name}_cpu.cpp"
        found += [(source, isa) for isa in isas] if per_isa else [(source, None)]
    return found


def plant(fault: Fault, folder: Path) -> None:
    """Write the changed file where the compiler and its includes find it before the right one."""
    text = (ROOT / fault.file).read_text()
    if text.count(fault.before) != 1:
        found = text.count(fault.before)
        raise ValueError(f"fault {fault.name!r}: {fault.file} must hold {fault.before!r} once; it does {found} times")
    native.write_if_changed(folder / fault.file, text.replace(fault.before, fault.after))


@lru_cache
def fixed_layout() -> list[str]:
    """What starts a program at the addresses that TSan of gcc 12 needs; newer kernels move it further than that.

    Some containers forbid it. There the program is started as it is.
    """
    command = ["setarch", "-R"]
    try:
        allowed = subprocess.run([*command, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    return command if allowed else []


def run_driver(driver: Path, sanitizer: Sanitizer, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One process of the driver; what it prints, and what is reported, is in ``stdout``."""
    command = [*(fixed_layout() if sanitizer.name == "thread" else []), str(driver), *arguments]
    environment = {**os.environ, **sanitizer.environment}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
