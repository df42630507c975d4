"""Every Triton launch goes through ``run``: on the device of its tensors, by a grid of one axis, or refused.

No GPU is needed: kernels and devices are stand-ins, and the launchers of all ops run on tensors without memory.
"""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

import triton
import triton.language as tl

from weft.kernels.attention.arguments import Arguments
from weft.kernels.attention.bwd import attention_bwd
from weft.kernels.attention.fwd import attention_fwd
from weft.kernels.attention.host import Call as AttentionCall
from weft.kernels.attention.tiles import locate
from weft.kernels.common import device as common
from weft.kernels.common.capture import kept_on_device
from weft.kernels.contrastive_loss.arguments import Segment
from weft.kernels.contrastive_loss.bwd import Factors, contrastive_loss_bwd
from weft.kernels.contrastive_loss.fwd import contrastive_loss_fwd
from weft.kernels.contrastive_loss.host import Call as ContrastiveCall
from weft.kernels.lowrank_linear.arguments import Arguments as LowrankArguments
from weft.kernels.lowrank_linear.bwd import lowrank_linear_bwd
from weft.kernels.lowrank_linear.fwd import lowrank_linear_fwd
from weft.kernels.lowrank_linear.host import Call as LowrankCall
from weft.kernels.pairwise_error.bwd import pairwise_error_bwd
from weft.kernels.pairwise_error.fwd import pairwise_error_fwd
from weft.kernels.regions.arguments import Search
from weft.kernels.regions.fwd import best_windows_fwd
from weft.kernels.regions.gate import concept_gate_fwd

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "kernels"
# the only file that may launch
LAUNCHER = KERNELS / "common" / "device.py"


# --- the one way to launch ------------------------------------------------------------------------------------------


class Gpus:
    """Stands in for ``torch.cuda`` of a machine with several GPUs: which is current, and whether it captures."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capturing: tuple[int, ...] = ()) -> None:
        self.current = 0
        monkeypatch.setattr(torch.cuda, "device", self._device)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.current in capturing)

    @contextmanager
    def _device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device.index
        yield
        self.current = before


class OnSecondGpu(torch.Tensor):
    """A tensor that says it is on cuda:1."""

    device = torch.device("cuda", 1)


class Kernel:
    """Stands in for a compiled function: notes the grid and the device of each launch."""

    __name__ = "_scale_fwd_kernel"

    def __init__(self, gpus: Gpus, module: object = None) -> None:
        self.launches: list[tuple[tuple[int, ...], int]] = []
        self.gpus, self.module = gpus, module

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **named: self.launches.append((grid, self.gpus.current))

    def warmup(self, *arguments: Any, grid: tuple[int, ...], **named: Any) -> SimpleNamespace:
        assert self.gpus.current == 1  # what is loaded is known by device
        return SimpleNamespace(module=self.module)


def on_second_gpu() -> torch.Tensor:
    return torch.zeros(2).as_subclass(OnSecondGpu)


def test_the_device_of_the_tensors_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = Gpus(monkeypatch)
    kernel = Kernel(gpus)
    common.run(kernel, 70_000, None, 3, x_ptr=on_second_gpu())
    common.run(kernel, 5, on_second_gpu())
    assert kernel.launches == [((70_000,), 1), ((5,), 1)]
    assert gpus.current == 0


def test_a_first_call_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(Gpus(monkeypatch, capturing=(1,)))
    with pytest.raises(RuntimeError, match=r"^scale_fwd_kernel: a CUDA graph cannot capture the first call; run the"):
        common.run(kernel, 5, on_second_gpu())
    assert kernel.launches == []


def test_a_later_call_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(Gpus(monkeypatch, capturing=(1,)), module=object())
    common.run(kernel, 5, on_second_gpu())
    assert kernel.launches == [((5,), 1)]


def test_too_many_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(Gpus(monkeypatch))
    common.run(kernel, 2**31 - 1, on_second_gpu())
    with pytest.raises(ValueError, match="at most 2147483647 programs; this call needs 2147483648: split the batch"):
        common.run(kernel, 2**31, on_second_gpu())
    assert len(kernel.launches) == 1


def test_constants_are_not_made_during_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    @kept_on_device
    def counts(n: int, device: torch.device) -> torch.Tensor:
        made.append(n)
        return torch.arange(n)

    second = torch.device("cuda", 1)
    Gpus(monkeypatch)
    warm = counts(3, second)
    Gpus(monkeypatch, capturing=(1,))
    assert counts(3, second) is warm
    with pytest.raises(RuntimeError, match="counts: a CUDA graph cannot capture the first call"):
        counts(4, second)
    # the other GPU is free, and a refusal is not kept
    counts(4, torch.device("cuda", 0))
    Gpus(monkeypatch)
    counts(4, second)
    assert made == [3, 4, 4]


# --- the grids of all launchers -------------------------------------------------------------------------------------


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Programs of each kernel that is launched, by name."""
    found: dict[str, int] = {}
    real = common.run

    def note(kernel: Any, programs: int, /, *arguments: Any, **named: Any) -> None:
        found[kernel.__name__.strip("_").removesuffix("_kernel")] = programs

    for path in KERNELS.rglob("*.py"):
        module = importlib.import_module(".".join(["weft", *path.relative_to(ROOT).with_suffix("").parts]))
        if getattr(module, "run", None) is real:
            monkeypatch.setattr(module, "run", note)
    return found


def meta(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


# beyond what the second and third axis of a grid hold
MANY = 70_000


@pytest.mark.parametrize(("seqlen_k", "forward"), [(77, "fwd_short"), (4096, "fwd_long")])
def test_attention_of_many_samples(launches: dict[str, int], seqlen_k: int, forward: str) -> None:
    wide = torch.float32
    tables = [meta(1, 2, 3, dtype=wide) for _ in range(4)]
    labels = (meta(1, 16, dtype=torch.int32), meta(1, seqlen_k, dtype=torch.int32))
    q, k = meta(MANY, 16, 2, 64), meta(MANY, seqlen_k, 2, 64)
    call = AttentionCall(Arguments(q, k, k, 0.125, *tables, meta(1, seqlen_k, 8, dtype=wide), *labels))
    done = attention_fwd(call, keep_rows=True)
    attention_bwd(call, done.out, done.maps, done, table_gradients=True, readout_gradient=True)
    tiles_k = -(-seqlen_k // call.tile("bwd_kv").block_k)
    assert launches == {
        f"attention_{forward}": 2 * MANY,
        "attention_bwd_q": 2 * MANY,
        "attention_bwd_kv": tiles_k * 2 * MANY,
        "attention_bwd_tables": 2 * MANY,
    }


def test_lowrank_linear_of_many_rows(launches: dict[str, int]) -> None:
    x, down, up = meta(MANY, 64, 320), meta(64, 320), meta(320, 64)
    gate = meta(MANY, 64, 4, dtype=torch.float32)
    given = LowrankArguments(x, meta(320, 320), down=down, up=up, ranks=(16,) * 4, gate=gate)
    call = LowrankCall(given, forced_form="append")
    lowrank_linear_fwd(call)
    wanted = dict.fromkeys(("x", "weight", "down", "up", "gate"), True) | {"bias": False}
    lowrank_linear_bwd(call, meta(MANY, 64, 320), wanted)
    assert set(launches) == {f"lowrank_linear_{k}" for k in ("shrink", "project", "bwd_outer", "bwd_gate")}
    assert launches["lowrank_linear_bwd_gate"] == MANY * 64 // 32


def test_contrastive_loss_of_many_columns(launches: dict[str, int]) -> None:
    wide = torch.float32
    rows, columns = 8, MANY * 64
    ids = (meta(3, rows, dtype=torch.int64), meta(3, columns, dtype=torch.int64))
    call = ContrastiveCall(meta(rows, 32), Segment(meta(columns, 32), meta(1, dtype=wide), *ids))
    contrastive_loss_fwd(call)
    factors = Factors(meta(3, rows, dtype=wide), None, meta(1, dtype=wide))
    contrastive_loss_bwd(call, factors, meta(rows, 32, dtype=wide), meta(columns, 32, dtype=wide), True)
    assert set(launches) == {f"contrastive_loss_{name}" for name in ("fwd", "bwd_pairs", "bwd_features")}


def test_pairwise_error_of_many_values(launches: dict[str, int]) -> None:
    pred, target = meta(1, 2, MANY * 1024), meta(1, MANY * 1024)
    pairwise_error_fwd(pred, target)
    pairwise_error_bwd(meta(1, 2, dtype=torch.float32), pred, target, (True, True))
    assert launches["pairwise_error_bwd"] == MANY


def test_regions_of_many_samples(launches: dict[str, int]) -> None:
    wide = torch.float32
    best_windows_fwd(
        Search(meta(MANY, 2, 16, 16), ((4, 4),), 0, 38, 0.5, None, 1, (4, 4), None), meta(9, 4, dtype=torch.int32)
    )
    maps, strengths, out = meta(MANY, 4096, 3), meta(MANY, 3, dtype=wide), meta(MANY, 4096, 3, dtype=wide)
    concept_gate_fwd(maps, strengths, "median", "largest", out)
    assert launches == {
        "best_windows_fwd": MANY,
        "concept_gate_map": 3 * MANY,
        "concept_gate_overlap": 16 * MANY,
    }


@triton.jit
def _locate_kernel(out_ptr, per_head, H):
    program, head, sample, samples = locate(per_head, H)
    at = out_ptr + 4 * tl.program_id(0)
    tl.store(at, program)
    tl.store(at + 1, head)
    tl.store(at + 2, sample)
    tl.store(at + 3, samples)


def test_programs_of_attention_find_their_place() -> None:
    out = torch.empty(2 * 3 * 5, 4, dtype=torch.int64)
    common.run(_locate_kernel, len(out), out, 5, 3)
    assert out.tolist() == [[tile, head, sample, 2] for sample in range(2) for head in range(3) for tile in range(5)]


# --- no other way ---------------------------------------------------------------------------------------------------


def faults(source: str) -> list[str]:
    """Launches that ``run`` does not see, and axes of a grid that it does not make."""
    found = []
    for node in ast.walk(ast.parse(source)):
        launches = isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)
        if isinstance(node, ast.Subscript | ast.Attribute):
            name = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
            launches = name.endswith("_kernel")
        if launches:
            found.append(f"line {node.lineno}: launches by itself; call weft.kernels.common.device.run")
        if (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", "") in ("program_id", "num_programs")
            and [getattr(argument, "value", None) for argument in node.args] != [0]
        ):
            found.append(f"line {node.lineno}: grids have one axis")
    return found


@pytest.mark.parametrize(
    "path", sorted(set(KERNELS.rglob("*.py")) - {LAUNCHER}), ids=lambda path: str(path.relative_to(KERNELS))
)
def test_no_file_launches_by_itself(path: Path) -> None:
    assert faults(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "scale[(3,)](x)",
        "fwd.scale[grid](x, BLOCK=4)",
        "launcher = _scale_kernel[grid]",
        "_scale_kernel.run(x, grid=grid, warmup=False)",
        "row = tl.program_id(1)",
        "row = tl.program_id(axis=2)",
        "samples = tl.num_programs(2)",
    ],
)
def test_a_planted_launch_is_found(line: str) -> None:
    assert len(faults(line)) == 1


def test_what_run_sees_passes() -> None:
    source = "run(_scale_kernel, 3, x, BLOCK=tiles[0])\nrow = tl.program_id(0) // tl.num_programs(0)"
    assert faults(source) == []


# --- Triton itself --------------------------------------------------------------------------------------------------

# without the interpreter, which takes the compiler's place for a whole process, and with a driver that has no device
NOT_LOADED = """
from contextlib import nullcontext

import torch
from cross_compile import NamedTarget
from triton.runtime import driver
from weft.kernels.common import device
from weft.kernels.pairwise_error.fwd import _pairwise_error_fwd_kernel as kernel

class OnGpu(torch.Tensor):
    device = torch.device("cuda", 0)

driver.set_active(NamedTarget(90))
torch.cuda.device = nullcontext
torch.cuda.is_current_stream_capturing = lambda: True
x = torch.zeros(1, 1, 8).as_subclass(OnGpu)
ones = dict.fromkeys(("stride_pred_r", "stride_pred_c", "stride_pred_n", "stride_target_r", "stride_target_n"), 1)
sizes = dict(C=1, N=8, parts=1, blocks=1, BLOCK=128)
device.run(kernel, 1, pred_ptr=x, target_ptr=x, sums_ptr=x, **ones, **sizes)
"""


@pytest.mark.slow
def test_triton_says_whether_a_kernel_is_loaded() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", NOT_LOADED]
    done = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert "RuntimeError: pairwise_error_fwd_kernel: a CUDA graph cannot capture the first call" in done.stderr
