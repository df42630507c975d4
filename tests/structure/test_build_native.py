"""What the build makes of a machine: an nvcc that works, fails or is missing, and GPUs that are seen. No real nvcc."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ("80", "90+PTX")


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module beside setup.py, with an environment that says nothing."""
    spec = importlib.util.spec_from_file_location("build_native", ROOT / "build_native.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "build_native", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TERMINAL", str(tmp_path / "terminal"))
    for name in ("WEFT_CUDA", "WEFT_CUDA_ARCHS", "WEFT_NATIVE", "CUDA_HOME", "CUDA_PATH", "CXX"):
        monkeypatch.delenv(name, raising=False)
    return module


Tool = Callable[[str, str], None]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tool:
    """Puts a shell script on an otherwise empty PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(name: str, script: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return make


def nvcc(release: str = "13.0", known: str = "75 80 90 100 120", compiling: str = "exit 0") -> str:
    """An nvcc that prints its version and architectures; ``compiling`` is what it does otherwise."""
    archs = " ".join(f"compute_{arch}" for arch in known.split())
    return f"""\
case "$1" in
  --version) echo 'Cuda compilation tools, release {release}, V{release}.88' ;;
  --list-gpu-arch) for arch in {archs}; do echo $arch; done ;;
  *) {compiling} ;;
esac"""


UNSUPPORTED_GCC = "echo '#error -- unsupported GNU version! gcc versions later than 15 are not supported!' >&2; exit 1"


def test_an_nvcc_that_compiles_is_taken(build: ModuleType, tool: Tool) -> None:
    tool("nvcc", nvcc())
    cuda = build.find_cuda()
    assert (cuda.version, cuda.archs) == ((13, 0), DEFAULT)


def test_what_is_tried_is_what_is_built(build: ModuleType, tool: Tool, tmp_path: Path) -> None:
    tool("nvcc", nvcc(compiling=f'echo "$@" > {shlex.quote(str(tmp_path / "arguments"))}'))
    cuda = build.find_cuda()
    tried = (tmp_path / "arguments").read_text().split()
    assert set(cuda.flags()) | set(build.NVCC_FLAGS) | set(build.NVCC_LINK_FLAGS) <= set(tried)
    assert "-gencode=arch=compute_90,code=compute_90" in tried


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (nvcc(compiling=UNSUPPORTED_GCC), "unsupported GNU version"),
        (nvcc(compiling="exit 3"), "exit status 3"),
        ("echo 'libcudart.so: cannot open shared object file' >&2; exit 127", "libcudart.so"),
        ("echo hello", "its version is not known: hello"),
    ],
    ids=["host compiler", "silent", "does not start", "no nvcc at all"],
)
def test_an_nvcc_that_fails_is_left_out(build, tool, monkeypatch, capsys, script: str, message: str) -> None:
    tool("nvcc", script)
    assert build.find_cuda() is None
    said = capsys.readouterr().out
    assert "WARNING: CUDA is left out" in said and message in said

    monkeypatch.setenv("WEFT_CUDA", "1")
    with pytest.raises(build.BuildError, match=r"(?s)WEFT_CUDA=1, and .*nvcc cannot compile; it says:.*" + message):
        build.find_cuda()

    monkeypatch.setenv("WEFT_CUDA", "0")
    assert build.find_cuda() is None
    assert capsys.readouterr().out == ""


def test_no_nvcc(build: ModuleType, tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.find_cuda() is None
    monkeypatch.setenv("WEFT_CUDA", "1")
    with pytest.raises(build.BuildError, match="WEFT_CUDA=1 needs nvcc on PATH or under CUDA_HOME"):
        build.find_cuda()


@pytest.mark.parametrize(
    ("answer", "release", "known", "archs"),
    [
        ("echo 9.0", "13.0", "80 90", ("90",)),
        ("echo 9.0; echo 8.6; echo 9.0", "13.0", "80 86 90", ("86", "90")),
        ("echo 12.0", "12.9", "80 90 120", ("120",)),
        # an nvcc that is older than the GPU, and a GPU that is older than the kernels
        ("echo 12.0", "12.4", "80 90", DEFAULT),
        ("echo 7.5", "13.0", "75 80 90", DEFAULT),
        ("echo 7.5; echo 8.9", "13.0", "75 80 89 90", ("89",)),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "13.0", "80 90", DEFAULT),
        ("echo 'No devices were found'", "13.0", "80 90", DEFAULT),
        ("echo 9.0", "11.2", "80", ("80",)),
    ],
)
def test_gpus_that_are_seen(build: ModuleType, tool: Tool, answer: str, release: str, known: str, archs) -> None:
    tool("nvidia-smi", answer)
    tool("nvcc", nvcc(release, known))
    assert build.find_cuda().archs == archs


def test_the_list_of_the_environment_goes_first(build: ModuleType, tool: Tool, monkeypatch) -> None:
    tool("nvidia-smi", "echo 9.0")
    tool("nvcc", nvcc())
    monkeypatch.setenv("WEFT_CUDA_ARCHS", "80;120+PTX")
    assert build.find_cuda().archs == ("80", "120+PTX")
    monkeypatch.setenv("WEFT_CUDA_ARCHS", "ampere")
    with pytest.raises(build.BuildError, match="lists numbers such as '80 90\\+PTX'; got 'ampere'"):
        build.find_cuda()


def test_a_plan_names_what_is_compiled(build: ModuleType) -> None:
    sets = {"scalar": (), "avx2": ("avx2",)}
    assert build.plan(9, sets, 0, None).startswith("compiling 9 C++ files (scalar, avx2): ")
    text = build.plan(9, sets, 12, build.Cuda("nvcc", (13, 0), DEFAULT))
    assert "9 C++ files (scalar, avx2) and 12 CUDA files for sm 80 90+PTX: " in text and "WEFT_CUDA=0" in text


def test_the_terminal_reads_what_pip_keeps_to_itself(build: ModuleType, tmp_path: Path, capsys) -> None:
    build.announce("compiling 3 files")
    assert capsys.readouterr().out == "weft: compiling 3 files\n"
    assert (tmp_path / "terminal").read_text() == "\nweft: compiling 3 files\n"
    # a machine without a terminal
    build.TERMINAL = str(tmp_path / "no folder" / "tty")
    build.announce("compiling 3 files")
    assert capsys.readouterr().out == "weft: compiling 3 files\n"


def test_a_cxx_compiler_that_fails_names_the_way_out(build, tool, monkeypatch, tmp_path: Path) -> None:
    tool("c++", "exit 1")
    monkeypatch.setattr(build.NinjaFile, "run", lambda self: False)
    with pytest.raises(build.BuildError, match=r"did not compile; .*WEFT_NATIVE=0 installs weft without the module"):
        build.build_library(tmp_path / "native", "_native.so")


def test_importing_it_builds_nothing(build: ModuleType, tool: Tool) -> None:
    assert build.visible_archs() == []
    assert build.cxx_compiler() is None
