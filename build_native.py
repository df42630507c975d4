"""The native build: which compilers work here, what they compile, and the ninja file that does it.

Imported by ``setup.py`` and by tests; nothing here needs setuptools. Files, arguments, the GPUs that are seen and the
environment (docs/environment.md, "While building") decide everything.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"

# every csrc/<op>/<op>_cpu.cpp is compiled once per row, weakest first; a processor runs a row if it has its features
X86 = {
    "scalar": (),
    "avx2": ("avx2", "fma", "f16c"),
    "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl", "fma", "f16c"),
}
X86["avx512_bf16"] = (*X86["avx512"], "avx512bf16")
X86["amx"] = (*X86["avx512_bf16"], "amx-tile", "amx-bf16")
INSTRUCTION_SETS = X86 if platform.machine().lower() in ("x86_64", "amd64") else {"scalar": ()}

# nvcc that first knows the architecture; "+PTX" lets devices newer than the list compile the code themselves. Code for
# sm_80 runs on 8.6 and 8.9 as it is; each further entry would add a minute to the build for little or nothing
CUDA_ARCHS = {"80": (11, 0), "90+PTX": (11, 8)}
# the kernels use instructions that older devices lack
OLDEST_CUDA_ARCH = 80

# no -ffast-math: infinities and NaN carry meaning here. No contraction: kernels write fma where they want it, and
# promise the same bits by two routes (one task or several, with an edit that changes nothing or without)
FLOAT_FLAGS = ("-fno-math-errno", "-ffp-contract=off")
CXX_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", *FLOAT_FLAGS, "-pthread", "-Wall", "-Wextra")
NVCC_FLAGS = ("-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall")
# nvcc knows where its static runtime lies; its symbols stay inside, beside torch's own copy
NVCC_LINK_FLAGS = ("-cudart=static", "-Xlinker=--exclude-libs=ALL")

TERMINAL = "/dev/tty"
WITHOUT_NATIVE = "without weft._native the package runs on its reference and triton backends only"

# as little as shows that nvcc, its host compiler, both their headers and the linker get along
PROBE = """\
#include <cuda_runtime.h>

#include <string>

__global__ void probe(int* x) { *x = 1; }
int launch(int* x) {
  probe<<<1, 1>>>(x);
  return cudaGetLastError() == cudaSuccess && std::string("probe").size() == 5;
}
"""

RULES = """\
rule cxx
  command = $compiler -MMD -MF $out.d $flags -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = C++ $out
rule cuda
  command = $compiler -MMD -MF $out.d $flags -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = CUDA $out
rule link
  command = $compiler $in -o $out $flags
  description = link $out
"""


class BuildError(Exception):
    """The native module cannot be built; the message says why and what to do."""


@dataclass(frozen=True)
class Cuda:
    """The compiler for .cu files and what it will compile them for."""

    nvcc: str
    version: tuple[int, int]
    archs: tuple[str, ...]

    def flags(self) -> list[str]:
        flags = []
        for arch in self.archs:
            number = arch.removesuffix("+PTX")
            codes = [f"sm_{number}"] + ([f"compute_{number}"] if arch.endswith("+PTX") else [])
            flags += [f"-gencode=arch=compute_{number},code={code}" for code in codes]
        return flags


# --- what this machine has ------------------------------------------------------------------------------------------


def switch(name: str) -> bool | None:
    """The environment's word on an optional part: True forces it, False leaves it out, None lets setup look.

    Raises:
        BuildError: The variable is something else.
    """
    value = os.environ.get(name, "").strip()
    if value not in ("", "0", "1"):
        raise BuildError(f"`{name}` must be 0, 1 or unset; got {value!r}")
    return None if value == "" else value == "1"


def cxx_compiler() -> list[str] | None:
    words = shlex.split(os.environ.get("CXX", ""))
    candidates = [words] if words else [["c++"], ["g++"], ["clang++"]]
    return next((c for c in candidates if shutil.which(c[0])), None)


def missing_for_native() -> list[str]:
    """What this machine lacks to build weft._native; empty when it can."""
    missing = []
    if sys.platform == "win32":
        missing.append("Linux or macOS (the native module has not been ported to Windows)")
    if cxx_compiler() is None:
        missing.append("a C++17 compiler (g++ or clang++ on PATH, or CXX)")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append("Python.h (package python3-dev or python3-devel)")
    return missing


def accepts(compiler: list[str], flags: list[str]) -> bool:
    command = [*compiler, *flags, "-fsyntax-only", "-x", "c++", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


def find_cuda() -> Cuda | None:
    """The CUDA compiler, tried; None, with a warning where one was found, if CUDA is left out.

    Raises:
        BuildError: WEFT_CUDA=1 and there is no nvcc, or it cannot compile; a variable cannot be read.
    """
    wanted = switch("WEFT_CUDA")
    if wanted is False:
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = (home and shutil.which("nvcc", path=f"{home}/bin")) or shutil.which("nvcc")
    if nvcc is None:
        if wanted:
            raise BuildError("WEFT_CUDA=1 needs nvcc on PATH or under CUDA_HOME; none found")
        return None
    try:
        version = nvcc_version(nvcc)
        cuda = Cuda(nvcc, version, cuda_archs(nvcc, version))
        try_cuda(cuda)
    except CompilerFailed as failure:
        if wanted:
            raise BuildError(f"WEFT_CUDA=1, and {nvcc} cannot compile; it says:\n{failure}") from None
        announce(
            f"WARNING: CUDA is left out: {nvcc} cannot compile. WEFT_CUDA=1 makes this an error, WEFT_CUDA=0 silences "
            f"it. nvcc says:\n{failure}"
        )
        return None
    return cuda


class CompilerFailed(Exception):
    """A compiler ended with an error; the message is its own."""


def ask(command: list[str]) -> str:
    """What a compiler prints.

    Raises:
        CompilerFailed: It fails, or cannot be run.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise CompilerFailed(str(error)) from None
    if done.returncode:
        raise CompilerFailed((done.stderr + done.stdout).strip() or f"exit status {done.returncode}")
    return done.stdout


def nvcc_version(nvcc: str) -> tuple[int, int]:
    answer = ask([nvcc, "--version"])
    match = re.search(r"release (\d+)\.(\d+)", answer)
    if match is None:
        raise CompilerFailed(f"its version is not known: {answer.strip()}")
    return int(match[1]), int(match[2])


def try_cuda(cuda: Cuda) -> None:
    """Compile and link a kernel for every architecture.

    Raises:
        CompilerFailed: An architecture that nvcc does not know, a host compiler that it does not take, missing files.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cu")
        source.write_text(PROBE)
        output = ["-shared", *NVCC_LINK_FLAGS, str(source), "-o", str(source.with_suffix(".so"))]
        ask([cuda.nvcc, *NVCC_FLAGS, *cuda.flags(), *output])


def cuda_archs(nvcc: str, version: tuple[int, int]) -> tuple[str, ...]:
    """What .cu files are compiled for: WEFT_CUDA_ARCHS, else the GPUs that are seen, else ``CUDA_ARCHS``.

    Raises:
        BuildError: WEFT_CUDA_ARCHS cannot be read.
    """
    chosen = os.environ.get("WEFT_CUDA_ARCHS", "").replace(",", " ").replace(";", " ").split()
    for arch in chosen:
        if not re.fullmatch(r"\d{2,3}[af]?(\+PTX)?", arch):
            raise BuildError(f"`WEFT_CUDA_ARCHS` lists numbers such as '80 90+PTX'; got {arch!r}")
    if chosen:
        return tuple(chosen)
    seen = [arch for arch in visible_archs() if int(arch) >= OLDEST_CUDA_ARCH]
    if seen:
        known = re.findall(r"compute_(\d+)\b", ask([nvcc, "--list-gpu-arch"]))
        if set(seen) <= set(known):
            return tuple(seen)
    return tuple(arch for arch, since in CUDA_ARCHS.items() if version >= since)


def visible_archs() -> list[str]:
    """Compute capabilities of the GPUs here, such as "90", oldest first; empty where the driver names none."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = re.findall(r"^(\d+)\.(\d)\s*$", done.stdout, re.MULTILINE) if done.returncode == 0 else []
    return sorted({major + minor for major, minor in found}, key=int)


# --- what the user reads --------------------------------------------------------------------------------------------


def announce(text: str) -> None:
    """Say something to the user, also where pip shows the output of a build only with ``-v``."""
    line = f"weft: {text}\n"
    sys.stdout.write(line)
    sys.stdout.flush()
    if not sys.stdout.isatty():
        try:
            with open(TERMINAL, "w") as terminal:
                terminal.write(f"\n{line}")
        except OSError:
            pass  # no terminal either: what was printed is all there is


def plan(cxx_files: int, isas: Mapping[str, tuple[str, ...]], cuda_files: int, cuda: Cuda | None) -> str:
    """One line on what will be compiled."""
    parts = [f"{cxx_files} C++ files ({', '.join(isas)})"]
    if cuda:
        parts.append(f"{cuda_files} CUDA files for sm {' '.join(cuda.archs)}")
    time = "takes minutes, most of them for CUDA (WEFT_CUDA=0 leaves it out)" if cuda else "takes a minute or more"
    return f"compiling {' and '.join(parts)}: {time}; what an earlier build left is not compiled again"


# --- ninja ----------------------------------------------------------------------------------------------------------


def ninja_escape(text: str) -> str:
    return text.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


class NinjaFile:
    """Collects the objects of one shared library and writes the build.ninja that makes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects: list[str] = []
        self.lines = [RULES]

    def add(self, rule: str, source: Path, compiler: list[str], flags: list[str], tag: str = "") -> None:
        obj = str(source.relative_to(CSRC).with_suffix("")) + (f".{tag}" if tag else "") + f"{source.suffix}.o"
        self.objects.append(obj)
        self.edge(rule, obj, [str(source)], compiler, flags)

    def link(self, output: str, linker: list[str], flags: list[str]) -> None:
        self.edge("link", output, self.objects, linker, flags)

    def edge(self, rule: str, output: str, inputs: list[str], compiler: list[str], flags: list[str]) -> None:
        """One step: ``inputs`` to ``output`` by a rule."""
        names = " ".join(map(ninja_escape, inputs))
        self.lines.append(f"build {ninja_escape(output)}: {rule} {names}")
        for key, words in (("compiler", compiler), ("flags", flags)):
            self.lines.append(f"  {key} = " + shlex.join(words).replace("$", "$$"))

    def run(self) -> bool:
        """Whether everything compiled."""
        write_if_changed(self.folder / "build.ninja", "\n".join(self.lines) + "\n")
        jobs = os.environ.get("WEFT_BUILD_JOBS")
        command = [sys.executable, "-m", "ninja", "-C", str(self.folder), *(["-j", jobs] if jobs else [])]
        return subprocess.run(command).returncode == 0


def write_if_changed(path: Path, text: str) -> None:
    """Keep the time stamp of a file that is already right, or ninja would rebuild everything that reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def build_config(isas: Mapping[str, tuple[str, ...]], cuda: Cuda | None) -> str:
    """Text of weft/build_config.h: what was chosen here, for the C++ side."""
    rows = " ".join(f'X({name}, "{" ".join(features)}")' for name, features in isas.items())
    lines = [
        "// Written by build_native.py. X(name, features): one compiled instruction set, weakest first.",
        "#pragma once",
        f"#define WEFT_FOR_EACH_ISA(X) {rows}",
    ]
    if cuda:
        lines += [
            "#define WEFT_HAS_CUDA 1",
            f'#define WEFT_CUDA_VERSION "{cuda.version[0]}.{cuda.version[1]}"',
            f'#define WEFT_CUDA_ARCHS "{" ".join(cuda.archs)}"',
        ]
    return "\n".join(lines) + "\n"


def build_library(folder: Path, name: str) -> Path:
    """Compile weft._native in ``folder``; the path of the library.

    Raises:
        BuildError: Something does not compile.
    """
    import pybind11

    cxx, cuda = cxx_compiler(), find_cuda()
    assert cxx is not None
    isas = {i: f for i, f in INSTRUCTION_SETS.items() if accepts(cxx, [f"-m{feature}" for feature in f])}
    write_if_changed(folder / "include/weft/build_config.h", build_config(isas, cuda))
    includes = [f"-I{path}" for path in (folder / "include", CSRC / "include", CSRC)]
    flags = [*CXX_FLAGS, *includes, *shlex.split(os.environ.get("CXXFLAGS", ""))]

    # only the bindings see Python; baseline objects come first, so that a function that both they and a wider object
    # define is taken from the baseline
    ninja = NinjaFile(folder)
    python = [f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}"]
    ninja.add("cxx", CSRC / "bindings.cpp", cxx, flags + python)
    sources = sorted(CSRC.glob("*/**/*.cpp"))
    per_isa = [s for s in sources if s.name == f"{s.parent.name}_cpu.cpp"]
    for source in sources:
        if source not in per_isa:
            ninja.add("cxx", source, cxx, flags)
    for isa, features in isas.items():
        for source in per_isa:
            ninja.add("cxx", source, cxx, [*flags, *(f"-m{f}" for f in features), f"-DWEFT_ISA={isa}"], tag=isa)
    cxx_files = len(ninja.objects)

    shared = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    dl = ["-ldl"] if sys.platform == "linux" else []  # a part of libc itself since glibc 2.34
    if cuda:
        for source in sorted(CSRC.glob("*/**/*.cu")):
            ninja.add("cuda", source, [cuda.nvcc], [*NVCC_FLAGS, *cuda.flags(), *includes])
        ninja.link(name, [cuda.nvcc], [*shared, *NVCC_LINK_FLAGS, *dl])
    else:
        ninja.link(name, cxx, [*shared, "-pthread", *dl])
    announce(plan(cxx_files, isas, len(ninja.objects) - cxx_files, cuda))
    if not ninja.run():
        rest = "WEFT_CUDA=0 leaves CUDA out, and " if cuda else ""
        raise BuildError(
            "weft._native did not compile; the compiler's messages stand above. "
            f"{rest}WEFT_NATIVE=0 installs weft without the module: {WITHOUT_NATIVE}"
        )
    return folder / name
