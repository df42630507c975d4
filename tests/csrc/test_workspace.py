"""The bounds of native workspaces, and what native code refuses because of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from weft._native_loader import native, native_or_none

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
SOURCES = (HERE / "workspace_test.cpp", CSRC / "device/workspace.cpp", CSRC / "device/parallel.cpp")


def test_carvers_spans_and_tasks(tmp_path: Path) -> None:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    program = tmp_path / "workspace_test"
    flags = ("-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{CSRC / 'include'}", "-pthread")
    subprocess.run([compiler, *flags, *map(str, SOURCES), "-o", str(program), "-ldl"], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(native_or_none() is None, reason="weft._native is not built")
def test_sizes_whose_workspace_no_machine_has() -> None:
    """2^55 heads of one value have addresses, all in one place; what they would be packed into does not."""
    strides = ((0, 0, 0, 1),) * 4
    sizes = (1, 1, 1, 2**55, 2**55, 1, 0, 1, 1)
    with pytest.raises((ValueError, MemoryError)):
        native().attention_fwd_cpu((64,) * 4, strides, sizes, ((0, 0),) * 8, 0, 1.0, 0, 1)
