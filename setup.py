"""Package map and native build: csrc/ -> weft._native by ninja, kernels/ -> weft.kernels, python/weft -> weft.

Files, arguments and the environment (ENVIRONMENT.md, "While building") decide everything; no GPU is asked for.
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
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

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

# no -ffast-math: infinities and NaN carry meaning here. No contraction: kernels write fma where they want it, and
# promise the same bits by two routes (one task or several, with an edit that changes nothing or without)
FLOAT_FLAGS = ("-fno-math-errno", "-ffp-contract=off")
CXX_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", *FLOAT_FLAGS, "-pthread", "-Wall", "-Wextra")
NVCC_FLAGS = ("-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall")

WITHOUT_NATIVE = "without weft._native the package runs on its reference and triton backends only"

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


def switch(name: str) -> bool | None:
    """The environment's word on an optional part: True forces it, False leaves it out, None lets setup look."""
    value = os.environ.get(name, "").strip()
    if value not in ("", "0", "1"):
        raise SystemExit(f"setup: `{name}` must be 0, 1 or unset; got {value!r}")
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


def find_cuda() -> Cuda | None:
    wanted = switch("WEFT_CUDA")
    if wanted is False:
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = (home and shutil.which("nvcc", path=f"{home}/bin")) or shutil.which("nvcc")
    if nvcc is None:
        if wanted:
            raise SystemExit("setup: WEFT_CUDA=1 needs nvcc on PATH or under CUDA_HOME; none found")
        return None
    answer = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = re.search(r"release (\d+)\.(\d+)", answer).groups()
    version = (int(major), int(minor))
    chosen = os.environ.get("WEFT_CUDA_ARCHS", "").replace(",", " ").replace(";", " ").split()
    archs = chosen or [arch for arch, since in CUDA_ARCHS.items() if version >= since]
    for arch in archs:
        if not re.fullmatch(r"\d{2,3}[af]?(\+PTX)?", arch):
            raise SystemExit(f"setup: `WEFT_CUDA_ARCHS` lists numbers such as '80 90+PTX'; got {arch!r}")
    return Cuda(nvcc, version, tuple(archs))


def accepts(compiler: list[str], flags: list[str]) -> bool:
    command = [*compiler, *flags, "-fsyntax-only", "-x", "c++", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


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
        self._edge(rule, obj, [str(source)], compiler, flags)

    def link(self, output: str, linker: list[str], flags: list[str]) -> None:
        self._edge("link", output, self.objects, linker, flags)

    def _edge(self, rule: str, output: str, inputs: list[str], compiler: list[str], flags: list[str]) -> None:
        names = " ".join(map(ninja_escape, inputs))
        self.lines.append(f"build {ninja_escape(output)}: {rule} {names}")
        for key, words in (("compiler", compiler), ("flags", flags)):
            self.lines.append(f"  {key} = " + shlex.join(words).replace("$", "$$"))

    def run(self) -> None:
        write_if_changed(self.folder / "build.ninja", "\n".join(self.lines) + "\n")
        jobs = os.environ.get("WEFT_BUILD_JOBS")
        command = [sys.executable, "-m", "ninja", "-C", str(self.folder), *(["-j", jobs] if jobs else [])]
        if subprocess.run(command).returncode != 0:
            raise CompileError("weft._native did not compile; the compiler's messages stand above")


def write_if_changed(path: Path, text: str) -> None:
    """Keep the time stamp of a file that is already right, or ninja would rebuild everything that reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def build_config(isas: dict[str, tuple[str, ...]], cuda: Cuda | None) -> str:
    """Text of weft/build_config.h: what setup.py chose, for the C++ side."""
    rows = " ".join(f'X({name}, "{" ".join(features)}")' for name, features in isas.items())
    lines = [
        "// Written by setup.py. X(name, features): one compiled instruction set, weakest first.",
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


class NinjaBuild(build_ext):
    """Builds the one extension by ninja in build/native-<platform>, so that a second build does only what changed."""

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name))
        output.unlink(missing_ok=True)  # an older build in the same folder must not pass for this one
        missing = missing_for_native()
        # a compiler that is there and fails is an error; only a missing one may be passed over
        ext.optional = bool(missing) and not switch("WEFT_NATIVE")
        if missing:
            raise CompileError(f"this machine lacks {' and '.join(missing)}; {WITHOUT_NATIVE}")
        library = self.build_library(ROOT / "build" / f"native-{sysconfig.get_config_var('SOABI')}", output.name)
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library, output)

    def build_library(self, folder: Path, name: str) -> Path:
        import pybind11

        cxx, cuda = cxx_compiler(), find_cuda()
        isas = {i: f for i, f in INSTRUCTION_SETS.items() if accepts(cxx, [f"-m{feature}" for feature in f])}
        write_if_changed(folder / "include/weft/build_config.h", build_config(isas, cuda))
        includes = [f"-I{path}" for path in (folder / "include", CSRC / "include", CSRC)]
        flags = [*CXX_FLAGS, *includes, *shlex.split(os.environ.get("CXXFLAGS", ""))]

        # only the door sees Python; baseline objects come first, so that a function that both they and a
        # wider object define is taken from the baseline
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

        shared = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
        dl = ["-ldl"] if sys.platform == "linux" else []  # a part of libc itself since glibc 2.34
        if cuda:
            for source in sorted(CSRC.glob("*/**/*.cu")):
                ninja.add("cuda", source, [cuda.nvcc], [*NVCC_FLAGS, *cuda.flags(), *includes])
            # nvcc knows where its static runtime lies; its symbols stay inside, beside torch's own copy
            hide = ["-cudart=static", "-Xlinker=--exclude-libs=ALL"]
            ninja.link(name, [cuda.nvcc], [*shared, *hide, *dl])
        else:
            ninja.link(name, cxx, [*shared, "-pthread", *dl])
        ninja.run()
        return folder / name


ops = find_packages("kernels")  # kernels/<op>/ -> weft.kernels.<op>
setup(
    packages=find_packages("python") + [f"weft.kernels.{op}" for op in ops],
    package_dir={"": "python", **{f"weft.kernels.{op}": f"kernels/{op.replace('.', '/')}" for op in ops}},
    package_data={
        "weft": ["py.typed"],
        "weft.evaluation": ["judge/weights/**"],
        "weft.shapes": ["weights/**", "weights-sd3/**", "weights-inpainting/**"],
    },
    include_package_data=False,
    # optional: a machine without a compiler gets the package without the module
    ext_modules=[] if switch("WEFT_NATIVE") is False else [Extension("weft._native", [], optional=True)],
    cmdclass={"build_ext": NinjaBuild},
)
