"""Builds the emulated kernels and puts them in the place of ``weft._native``."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import Tensor

from weft.ops.attention import cuda as _attention_cuda
from weft.testing import AttentionInputs

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
# no fused multiply-add that is not written: results must not depend on the processor of the test
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-ffp-contract=off")
MACHINE = sorted(HERE.glob("*.cpp"))
SOURCES = [
    CSRC / "attention/check.cpp",
    CSRC / "device/workspace.cpp",
    CSRC / "attention/attention.cu",
    *sorted((CSRC / "attention/cuda/instances").glob("*.cu")),
    *MACHINE,
]

_TABLES = ("alpha", "beta", "gamma", "delta", "readout", "query_labels", "key_labels", "key_padding")
_SIZES = ("B", "Nq", "Nk", "H", "Hk", "D", "M", "Lq", "Lk")
_TABLE_BYTES = (4, 4, 4, 4, 4, 4, 4, 1)


class Params(ctypes.Structure):
    """``weft::AttentionParams``, field by field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", *_TABLES, "out", "maps")),
        *((name, ctypes.c_int64) for name in _SIZES),
        *((f"{name}_stride", ctypes.c_int64 * 3) for name in ("q", "k", "v", "out")),
        *((f"{name}_batch", ctypes.c_int64) for name in _TABLES),
        ("scale", ctypes.c_float),
        ("dtype", ctypes.c_int),
        ("num_threads", ctypes.c_int),
    ]


# orders in which the fibres take turns, and devices, as machine.h has them
FORWARDS, BACKWARDS, SHUFFLED = 0, 1, 2
SMALL_DEVICE, LARGE_DEVICE, OLD_DEVICE = 0, 1, 2


class EmulatedNative:
    """Has the CUDA functions of ``weft._native``, with their arguments; tensors lie in ordinary memory."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.weft_emulation_workspace_bytes.restype = ctypes.c_int64
        assert ctypes.sizeof(Params) == self.library.weft_emulation_params_bytes()

    def take_turns(self, order: int) -> None:
        self.library.weft_emulation_order(order)

    def attention_cuda_workspace_bytes(self, sizes: Sequence[int]) -> int:
        params = Params(**dict(zip(_SIZES, sizes, strict=True)))
        return int(self.library.weft_emulation_workspace_bytes(ctypes.byref(params)))

    def attention_fwd_cuda(
        self,
        pointers: Sequence[int],
        strides: Sequence[Sequence[int]],
        sizes: Sequence[int],
        tables: Sequence[tuple[int, int]],
        maps: int,
        scale: float,
        dtype: int,
        workspace: int,
        workspace_bytes: int,
        device: int,
        stream: int,
    ) -> None:
        samples, queries, keys, heads, key_heads, width, columns, labels_q, labels_k = sizes
        params = Params(maps=maps, scale=scale, dtype=dtype, num_threads=1)
        for name, size in zip(_SIZES, sizes, strict=True):
            setattr(params, name, size)
        self.library.weft_emulation_forget_memory()
        for i, name in enumerate(("q", "k", "v", "out")):
            setattr(params, name, pointers[i])
            setattr(params, f"{name}_stride", (ctypes.c_int64 * 3)(*strides[i][:3]))
            shape = (samples, keys, key_heads) if name in "kv" else (samples, queries, heads)
            if all(shape):
                last = sum((n - 1) * stride for n, stride in zip(shape, strides[i], strict=False))
                self._know(name, pointers[i], 2 * (last + width), name == "out")
        table = labels_q * labels_k
        rows = (table, table, table, table, keys * columns, queries, keys, keys)
        for name, (pointer, batch), row, size in zip(_TABLES, tables, rows, _TABLE_BYTES, strict=True):
            setattr(params, name, pointer or None)
            setattr(params, f"{name}_batch", batch)
            self._know(name, pointer, size * ((samples - 1) * batch + row), False)
        self._know("maps", maps, 4 * samples * queries * columns, True)
        self._know("workspace", workspace, workspace_bytes, True)

        message = ctypes.create_string_buffer(1024)
        code = self.library.weft_emulation_attention(
            ctypes.byref(params),
            ctypes.c_void_p(workspace),
            ctypes.c_int64(workspace_bytes),
            device,
            message,
            len(message),
        )
        if code:
            raise (ValueError if code == 1 else RuntimeError)(message.value.decode())

    def _know(self, name: str, pointer: int, size: int, writable: bool) -> None:
        if pointer and size > 0:
            self.library.weft_emulation_know_memory(
                name.encode(), ctypes.c_void_p(pointer), ctypes.c_int64(size), int(writable)
            )


def compile_all(folder: Path, csrc: Path, sources: Sequence[Path], flags: Sequence[str] = FLAGS) -> list[Path]:
    """Compile C++ and CUDA sources for the emulation, two at a time; the objects, ``folder``/<name>.o."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("needs g++ or c++")
    folder.mkdir(parents=True, exist_ok=True)
    # the emulation's headers come first, so that they take the place of CUDA's and of csrc/include/weft's
    includes = [f"-I{path}" for path in (HERE / "include", HERE, csrc / "include", csrc)]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        command = [compiler, *flags, *includes, "-x", "c++", "-c", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return target

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compile_one, sources))


def link(library: Path, objects: Sequence[Path]) -> Path:
    """Join objects into a shared library; its path."""
    done = subprocess.run(["g++", "-shared", *map(str, objects), "-o", str(library)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return library


def ingredients() -> list[Path]:
    """Every file that goes into the library."""
    found = [path for folder in (CSRC / "attention", CSRC / "include", HERE) for path in folder.rglob("*")]
    return [path for path in found if path.suffix in (".cu", ".cuh", ".h", ".cpp")]


@pytest.fixture(scope="session")
def library(kept_build: Callable[..., Path]) -> Path:
    """The folder with attention.so, all instances of it, and the objects it is made of."""

    def make(folder: Path) -> None:
        link(folder / "attention.so", compile_all(folder, CSRC, SOURCES))

    return kept_build("cuda_emulation", ingredients(), FLAGS, make)


@pytest.fixture(scope="session")
def emulated(library: Path) -> EmulatedNative:
    return EmulatedNative(library / "attention.so")


Attend = Callable[..., tuple[Tensor, Tensor]]


@contextmanager
def in_place_of_native(module: EmulatedNative, device: int) -> Iterator[None]:
    """Sends ``attention_fwd_cuda`` to ``module``, with tensors of the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_attention_cuda, "native", lambda: module)
        patch.setattr(_attention_cuda, "_queue", lambda _: (device, 0))
        yield


def attend(
    module: EmulatedNative, inputs: AttentionInputs, order: int = FORWARDS, device: int = SMALL_DEVICE
) -> tuple[Tensor, Tensor]:
    """(out, maps) of the emulated kernels, through the Python of the CUDA backend."""
    module.take_turns(order)
    with in_place_of_native(module, device):
        return _attention_cuda.attention_fwd_cuda(inputs.arguments())


@pytest.fixture(scope="session")
def emulation(library: Path) -> SimpleNamespace:
    """What the tests of this folder share."""
    return SimpleNamespace(
        attend=attend,
        compile_all=compile_all,
        link=link,
        native=EmulatedNative,
        machine_objects=[library / f"{source.stem}.o" for source in MACHINE],
        csrc=CSRC,
        orders={"forwards": FORWARDS, "backwards": BACKWARDS, "shuffled": SHUFFLED},
        small_device=SMALL_DEVICE,
        large_device=LARGE_DEVICE,
        old_device=OLD_DEVICE,
    )
