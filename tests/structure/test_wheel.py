"""What ends up in sdist and wheel, and that both work: with a compiler, without, and when the environment insists."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from weft._native_loader import native_or_none

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = (ROOT / "python/weft/evaluation/judge/weights", ROOT / "python/weft/shapes/models")

pytestmark = [pytest.mark.long, pytest.mark.serial]


def build(source: Path, out: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m build`` with this interpreter's packages; ``environment`` replaces every WEFT_ variable."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("WEFT_")}
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *options, str(source)]
    return subprocess.run(command, capture_output=True, text=True, env={**env, **environment})


def one(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    assert len(found) == 1, found
    return found[0]


def run_unpacked(wheel: Path, folder: Path, code: str) -> str:
    """Unpack a wheel and run ``code`` on it, with the checkout's own editable install out of the way."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    env = {**os.environ, "PYTHONPATH": str(folder)}
    # the finder of an editable install answers for every module that the path does not have
    alone = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'Editable' not in getattr(f, '__name__', '')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", alone + "import weft\n" + code], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked sdist: every other build here starts from it, not from the checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    done = build(ROOT, folder, "--sdist")
    assert done.returncode == 0, done.stderr
    with tarfile.open(one(folder, "*.tar.gz")) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return one(folder, "weft-*/")


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # the editable install under test has compiled the same CUDA sources by the same path; twice costs minutes
    done = build(source, folder, "--wheel", WEFT_CUDA="0")
    assert done.returncode == 0, done.stdout + done.stderr
    return one(folder, "*.whl")


def installed_names() -> set[str]:
    """Files of the checkout by the name that they have in a wheel."""
    python = {
        str(path.relative_to(ROOT / "python"))
        for path in (ROOT / "python" / "weft").rglob("*.py*")
        if path.suffix in (".py", ".pyi")
    }
    kernels = {f"weft/{path.relative_to(ROOT)}" for path in (ROOT / "kernels").rglob("*.py")}
    found = [path for folder in WEIGHTS for path in folder.rglob("*") if path.is_file()]
    weights = {str(path.relative_to(ROOT / "python")) for path in found}
    return python | kernels | weights | {"weft/py.typed"}


def test_sdist_holds_sources_and_no_products(source: Path) -> None:
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert {
        "csrc/bindings.cpp",
        "csrc/device/device.cu",
        "setup.py",
        "build_native.py",
        "LICENSE",
        "docs/environment.md",
    } <= files
    assert not [
        name for name in files if name.endswith((".so", ".o", ".pyc")) or name.startswith(("tests/", "build/"))
    ]


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    native = {name for name in names if name.startswith("weft/_native.") and name.endswith(".so")}
    meta = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - native - meta == installed_names()
    assert len(native) == (native_or_none() is not None)
    assert any(name.endswith("LICENSE") for name in meta)


def test_wheel_works(wheel: Path, tmp_path: Path) -> None:
    code = "q = __import__('torch').randn(1, 3, 2, 8); print(weft.ops.attention(q, q, q).shape)"
    assert run_unpacked(wheel, tmp_path, code) == "torch.Size([1, 3, 2, 8])"


@pytest.mark.skipif(native_or_none() is None, reason="needs the native module, or nothing here could build one")
def test_wheel_has_a_working_native_module(wheel: Path, tmp_path: Path) -> None:
    code = "from weft._native_loader import native; print(next(iter(native().instruction_sets())))"
    assert run_unpacked(wheel, tmp_path, code) == "scalar"


@pytest.mark.parametrize(
    "environment", [{"CXX": "no-such-compiler"}, {"WEFT_NATIVE": "0"}], ids=["no compiler", "off"]
)
def test_build_without_native_module(source: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    done = build(source, tmp_path, "--wheel", **environment)
    assert done.returncode == 0, done.stderr
    assert ("C++17 compiler" in done.stdout + done.stderr) == ("CXX" in environment)
    code = "from weft._native_loader import why_not_native; print(why_not_native())"
    said = run_unpacked(one(tmp_path, "*.whl"), tmp_path / "unpacked", code)
    assert "it is not built" in said
    assert "compiler" in said


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WEFT_NATIVE": "1", "CXX": "no-such-compiler"}, "lacks a C++17 compiler"),
        ({"WEFT_CUDA": "1", "PATH": "", "CUDA_HOME": "", "CUDA_PATH": ""}, "WEFT_CUDA=1 needs nvcc"),
        ({"WEFT_CUDA": "yes"}, "`WEFT_CUDA` must be 0, 1 or unset; got 'yes'"),
        ({"WEFT_CUDA_ARCHS": "ampere"}, "`WEFT_CUDA_ARCHS` lists numbers"),
    ],
    ids=["compiler insisted on", "nvcc insisted on", "switch misspelt", "architecture misspelt"],
)
def test_build_says_what_is_wrong(source: Path, tmp_path: Path, environment: dict[str, str], message: str) -> None:
    if environment.get("PATH") == "":
        environment = {**environment, "CXX": shutil.which("c++") or "no compiler"}
        if native_or_none() is None:
            pytest.skip("needs a C++ compiler: without one the build never comes to ask for nvcc")
    if "WEFT_CUDA_ARCHS" in environment and shutil.which("nvcc") is None:
        pytest.skip("needs nvcc: without it the list of architectures is not read")
    done = build(source, tmp_path, "--wheel", **environment)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
