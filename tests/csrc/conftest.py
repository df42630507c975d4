"""Builds of the native module that setup.py does not make: with instructions emulated, or under sanitizers."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from weft._native_loader import native_or_none

CSRC = Path(__file__).resolve().parents[2] / "csrc"
FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=off", "-pthread")


def build_native(folder: Path, isa: str, isa_flags: tuple[str, ...], flags: tuple[str, ...]) -> Path:
    """Compile ``_native`` into ``folder``, still empty, for one instruction set, which every processor then has."""
    pybind11 = pytest.importorskip("pybind11")
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    config = folder / "include/weft/build_config.h"
    config.parent.mkdir(parents=True)
    config.write_text(f'#pragma once\n#define WEFT_FOR_EACH_ISA(X) X({isa}, "")\n')
    includes = [f"-I{path}" for path in (folder / "include", CSRC / "include", CSRC)]
    python = [f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}"]

    def compile_one(source: Path) -> str:
        own = (*isa_flags, f"-DWEFT_ISA={isa}") if source.name == f"{source.parent.name}_cpu.cpp" else ()
        target = str(folder / f"{source.parent.name}_{source.stem}.o")
        command = [compiler, *FLAGS, *flags, *includes, *python, *own, "-c", str(source), "-o", target]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return target

    sources = [CSRC / "bindings.cpp", *sorted(CSRC.glob("*/*.cpp"))]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    library = folder / "_native.so"
    subprocess.run([compiler, "-shared", "-pthread", *flags, *objects, "-o", str(library), "-ldl"], check=True)
    return library


def native_features() -> list[str]:
    """What this processor has, as far as our build asks about it."""
    module = native_or_none()
    return [] if module is None else [name for name, usable in module.cpu_features().items() if usable]


@pytest.fixture(scope="session")
def native_with_emulated_amx(kept_build: Callable[..., Path]) -> ModuleType:
    """``_native`` whose one instruction set is AMX, its tiles in plain code and the rest for this processor."""
    isa_flags, flags = ("-march=native", "-DWEFT_EMULATE_AMX"), ("-O2",)
    sources = [path for path in CSRC.rglob("*") if path.suffix in (".cpp", ".h")]
    # -march=native is another thing on another processor
    key = (*FLAGS, *isa_flags, *flags, sys.version, *native_features())
    folder = kept_build("emulated_amx", sources, key, lambda folder: build_native(folder, "amx", isa_flags, flags))
    spec = spec_from_loader("_native", ExtensionFileLoader("_native", str(folder / "_native.so")))
    assert spec is not None
    module = module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def use_native(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], None]:
    """Puts another build behind the CPU op for the length of a test."""
    return lambda module: monkeypatch.setattr(import_module("weft.ops.attention.cpu"), "native", lambda: module)
