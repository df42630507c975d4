"""Project rules that a look at the files can check: includes of csrc, one reader of the environment, the top level."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from weft import _env

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
CXX_FILES = sorted(
    str(path.relative_to(CSRC)) for path in CSRC.rglob("*") if path.suffix in {".h", ".cuh", ".cpp", ".cu"}
)
PYTHON_FILES = sorted(
    str(path.relative_to(ROOT)) for top in ("python", "kernels") for path in (ROOT / top).rglob("*.py")
)
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]', re.MULTILINE)
TORCH = re.compile(r"^(torch|ATen|c10|caffe2)/")


def forbidden_includes(source: str, path: str) -> list[str]:
    """Includes of a file of csrc that break the arrows: torch, pybind outside the bindings, one op in another."""
    package = path.split("/")[0]
    found = []
    for name in INCLUDE.findall(source):
        top, inside, _ = name.partition("/")
        other_op = bool(inside) and top != package and top != "include" and (CSRC / top).is_dir()
        python = top == "pybind11" or name == "Python.h"
        # the bindings see Python and every op's header
        if TORCH.match(name) or (package != "bindings.cpp" and (other_op or python)):
            found.append(name)
    return found


@pytest.mark.parametrize("path", CXX_FILES)
def test_csrc_includes(path: str) -> None:
    assert forbidden_includes((CSRC / path).read_text(), path) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("bindings.cpp", "#include <torch/extension.h>"),
        ("attention/attention_cpu.cpp", '#include "ATen/core/Tensor.h"'),
        ("attention/attention_cpu.cpp", "#include <pybind11/pybind11.h>"),
        ("attention/attention_cpu.cpp", '#include "device/device.h"'),
        ("include/weft/simd.h", '#  include "attention/attention.h"'),
        ("include/weft/simd.h", "#include <c10/util/BFloat16.h>"),
    ],
)
def test_a_planted_include_is_caught(path: str, line: str) -> None:
    assert len(forbidden_includes(line, path)) == 1


def reads_environment(source: str) -> bool:
    """Whether a file reads or writes the environment, by any of the ways the standard library has."""
    names = {"environ", "environb", "getenv", "getenvb", "putenv"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "os" and node.attr in names:
                return True
        elif isinstance(node, ast.ImportFrom) and node.module == "os" and names & {a.name for a in node.names}:
            return True
    return False


@pytest.mark.parametrize("path", PYTHON_FILES)
def test_only_env_reads_the_environment(path: str) -> None:
    assert reads_environment((ROOT / path).read_text()) == (path == "python/weft/_env.py")


@pytest.mark.parametrize("line", ["import os\nos.environ['A']", "import os\nos.getenv('A')", "from os import environ"])
def test_a_planted_reader_is_caught(line: str) -> None:
    assert reads_environment(line)


def test_kernels_has_no_init() -> None:
    # a package called kernels at the top would shadow the one that diffusers imports
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_top_level_holds_nothing_else() -> None:
    allowed = {
        "csrc",
        "python",
        "kernels",
        "benchmarks",
        "tests",
        "docs",
        "setup.py",
        "build_native.py",
        "pyproject.toml",
        "constraints.txt",
        "constraints-oldest.txt",
    }
    allowed |= {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "MANIFEST.in"}
    made = {"build", "dist", "runs", "demo", "__pycache__"}  # by tools, and ignored by git
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert found - made <= allowed


def documented_variables(section: str) -> set[str]:
    """First column of the table in a section of docs/environment.md."""
    text = (ROOT / "docs/environment.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_run_time_variables_are_documented() -> None:
    from dataclasses import fields

    assert documented_variables("While running") == {_env.variable(field.name) for field in fields(_env.Settings)}


def test_build_variables_are_documented() -> None:
    source = (ROOT / "build_native.py").read_text() + (ROOT / "setup.py").read_text()
    read = set(re.findall(r'environ\.get\("(\w+)"', source)) | set(re.findall(r'switch\("(\w+)"\)', source))
    assert documented_variables("While building") == read


def test_a_set_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEFT_BACKEND", raising=False)
    assert _env.settings().backend == "auto"
    monkeypatch.setenv("WEFT_BACKEND", "reference")
    monkeypatch.setenv("WEFT_BAKCEND", "cpu")
    assert _env.settings().backend == "reference"
    assert _env.in_force() == {"WEFT_BACKEND": "reference", "WEFT_BAKCEND": "cpu"}
