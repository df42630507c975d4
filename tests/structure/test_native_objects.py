"""Objects compiled for wide instruction sets keep to themselves, and the module needs no driver and no torch.

A weak symbol in such an object (a template of the standard library, an inline function of a shared header) may be the
copy that the linker keeps for the whole module, and a static initialiser runs at import: either way an older processor
meets an instruction that it does not have, far from any kernel.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from weft._native_loader import native_or_none

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = ROOT / "build" / f"native-{sysconfig.get_config_var('SOABI')}"
PER_ISA = sorted(OBJECTS.glob("*/*_cpu.*.cpp.o"))
# names the routine that unwinds exceptions; data, the same in every object
HARMLESS = re.compile(r"DW\.ref\.\w+")

pytestmark = pytest.mark.skipif(
    not PER_ISA or shutil.which("nm") is None, reason="needs nm and the objects of an in-tree build of csrc"
)


def leaks(obj: Path, isa: str) -> list[str]:
    """Symbols of an object that code outside its instruction set could meet by accident."""
    table = subprocess.run(["nm", "-C", "--defined-only", obj], capture_output=True, text=True, check=True).stdout
    found = []
    for line in table.splitlines():
        kind, name = line.split(maxsplit=2)[1:]
        own = re.search(rf"(?<![a-zA-Z0-9]){isa}(?!\w)", name) is not None
        shared = kind in "WVuw" and not HARMLESS.fullmatch(name)
        if shared or (kind.isupper() and kind not in "V" and not own) or name.startswith("_GLOBAL__"):
            found.append(f"{kind} {name}")
    return found


@pytest.mark.parametrize("obj", PER_ISA, ids=lambda path: path.name)
def test_object_defines_its_own_symbols_only(obj: Path) -> None:
    isa = obj.name.split(".")[1]
    assert leaks(obj, isa) == []


@pytest.mark.parametrize(
    ("source", "leak"),
    [
        ("inline int twice(int x) { return 2 * x; } int (*twice_avx2)(int) = twice;", "W twice(int)"),
        ("int twice(int x) { return 2 * x; }", "T twice(int)"),
        ("int ask(); static int answer = ask(); int twice_avx2(int x) { return answer * x; }", "t _GLOBAL__"),
    ],
    ids=["inline", "plain name", "static initialiser"],
)
def test_a_planted_leak_is_caught(tmp_path: Path, source: str, leak: str) -> None:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    assert compiler, "the objects under test were compiled by something"
    (tmp_path / "leak.cpp").write_text(source)
    subprocess.run([compiler, "-c", "-O2", "-mavx2", "leak.cpp"], cwd=tmp_path, check=True)
    found = leaks(tmp_path / "leak.o", "avx2")
    assert len(found) == 1
    assert found[0].startswith(leak)


# what every Linux with a C++ runtime has; libcuda, libcudart and libtorch must not be among it
SYSTEM_LIBRARIES = re.compile(
    r"(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|libc\+\+|ld-linux[\w-]*)\.so\.\d+"
)


def module_path() -> str:
    module = native_or_none()
    if module is None or shutil.which("readelf") is None:
        pytest.skip("needs weft._native and readelf")
    return str(module.__file__)


def test_module_needs_system_libraries_only() -> None:
    table = subprocess.run(["readelf", "-d", module_path()], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", table)
    assert needed
    assert [name for name in needed if not SYSTEM_LIBRARIES.fullmatch(name)] == []


def test_module_exports_its_interface_only() -> None:
    # a CUDA runtime or kernel visible from outside could be called in place of torch's own
    command = ["nm", "-D", "-C", "--defined-only", module_path()]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    strong = [line.split(maxsplit=2)[2] for line in table.splitlines() if line.split()[1] in "TDBR"]
    assert strong == ["PyInit__native"]
