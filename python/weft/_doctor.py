"""What is built, what works on this machine, and why the rest does not: facts first, then their text.

Nothing is installed, compiled or computed. Looking for GPUs initialises CUDA, so this belongs to a command and not to
an import.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pkgutil
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import weft.ops
from weft import _env
from weft._dispatch import BACKEND_NAMES, Op
from weft._native_loader import native_or_none, why_not_native
from weft.kernels.attention.arguments import Arguments as AttentionArguments
from weft.kernels.lowrank_linear.arguments import Arguments as LowrankArguments
from weft.kernels.regions.arguments import Search
from weft.ops._cuda import driver_version, refuse_machine
from weft.ops.contrastive_loss import Columns, as_segment

PACKAGES = ("weft", "torch", "triton", "diffusers", "transformers", "accelerate", "peft")


@dataclass(frozen=True)
class Cpu:
    """The processor. ``features`` are the extensions it can use, empty where the native module cannot say."""

    model: str
    cores: int
    torch_threads: int
    features: tuple[str, ...]


@dataclass(frozen=True)
class Native:
    """The native module, or why there is none.

    Attributes:
        problem: Why it cannot be used and what to do; None if it can, else every other field is empty.
        compiler: Name and version.
        instruction_sets: Those that kernels were compiled for, weakest first, and whether this processor runs them.
        chosen: The one that kernels use here.
        threads: Who runs CPU kernels: path of the OpenMP runtime of the process, or "std::thread".
        cuda: Version of the CUDA runtime linked in; None where it was built without CUDA.
        cuda_archs: GPU architectures compiled for.
    """

    problem: str | None
    compiler: str = ""
    instruction_sets: tuple[tuple[str, bool], ...] = ()
    chosen: str = ""
    threads: str = ""
    cuda: str | None = None
    cuda_archs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gpu:
    """What torch sees of GPUs, and whether the CUDA kernels that were built run there.

    Attributes:
        torch_cuda: Torch's CUDA version; None for a CPU build.
        devices: Name of each.
        problem: Why there is none.
        driver: The newest CUDA that the driver takes, or why that is not known; None without a build for CUDA.
        refusals: For each device, why the CUDA kernels cannot run on it; empty if they can.
    """

    torch_cuda: str | None
    devices: tuple[str, ...]
    problem: str | None
    driver: str | None = None
    refusals: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class BackendState:
    """Whether one backend takes a plain call of one op on ``device``; ``reasons`` are its objections."""

    op: str
    backend: str
    device: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """The embedded model: its folder and size, or None for the size where it is missing."""

    folder: str
    size_bytes: int | None


@dataclass(frozen=True)
class Report:
    """Everything that ``weft doctor`` reports."""

    system: str
    python: str
    versions: tuple[tuple[str, str | None], ...]
    cpu: Cpu
    native: Native
    gpu: Gpu
    backends: tuple[BackendState, ...]
    weights: Weights
    environment: tuple[tuple[str, str], ...]


def _attention_call(device: str) -> tuple[Any, ...]:
    x = torch.zeros(1, 4, 1, 64, device=device)
    return (AttentionArguments(x, x, x, 0.125),)


def _lowrank_linear_call(device: str) -> tuple[Any, ...]:
    x, matrix = torch.zeros(1, 4, 16, device=device), torch.zeros(16, 16, device=device)
    return (LowrankArguments(x, matrix, None, matrix, matrix, (16,)),)


def _contrastive_loss_call(device: str) -> tuple[Any, ...]:
    rows = torch.zeros(4, 16, device=device)
    return rows, [as_segment(Columns(rows), rows)]


def _pairwise_error_call(device: str) -> tuple[Any, ...]:
    return torch.zeros(2, 3, 16, device=device), torch.zeros(2, 16, device=device)


def _best_windows_call(device: str) -> tuple[Any, ...]:
    return (Search(torch.zeros(1, 2, 8, 8, device=device), ((2, 4), (4, 2)), 0, 0, 1.0, None, 0, (2, 4), None),)


def _concept_gate_call(device: str) -> tuple[Any, ...]:
    maps, strengths = torch.zeros(1, 16, 2, device=device), torch.ones(1, 2, device=device)
    return maps, strengths, "median", "largest", torch.empty_like(maps)


# a plain call of each op that ``ops`` finds, as its backends are asked about it
SAMPLE_CALLS: dict[str, Callable[[str], tuple[Any, ...]]] = {
    "attention": _attention_call,
    "contrastive_loss": _contrastive_loss_call,
    "lowrank_linear": _lowrank_linear_call,
    "pairwise_error": _pairwise_error_call,
    "regions.best_windows": _best_windows_call,
    "regions.concept_gate": _concept_gate_call,
}


def ops() -> dict[str, Op]:
    """Every op that a module of ``weft.ops`` defines, by its name."""
    modules = pkgutil.walk_packages(weft.ops.__path__, "weft.ops.")
    values = [value for module in modules for value in vars(importlib.import_module(module.name)).values()]
    return {op.name: op for op in sorted((one for one in values if isinstance(one, Op)), key=lambda op: op.name)}


def examine() -> Report:
    """Look at this machine and this installation."""
    gpu = _examine_gpu()
    return Report(
        system=platform.platform(),
        python=platform.python_version(),
        versions=tuple((name, _version(name)) for name in PACKAGES),
        cpu=_examine_cpu(),
        native=_examine_native(),
        gpu=gpu,
        backends=_examine_backends("cuda" if gpu.devices else "cpu"),
        weights=_examine_weights(),
        environment=tuple(_env.in_force().items()),
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _examine_cpu() -> Cpu:
    native = native_or_none()
    features = native.cpu_features() if native else {}
    usable = tuple(name for name, is_usable in features.items() if is_usable)
    return Cpu(_cpu_model(), os.cpu_count() or 1, torch.get_num_threads(), usable)


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _examine_native() -> Native:
    native = native_or_none()
    if native is None:
        return Native(problem=why_not_native())
    built = native.build_info()
    sets = tuple(native.instruction_sets().items())
    return Native(
        problem=None,
        compiler=built["compiler"],
        instruction_sets=sets,
        chosen=[name for name, is_usable in sets if is_usable][-1],
        threads=native.parallel_runtime(),
        cuda=built["cuda"],
        cuda_archs=built["cuda_archs"],
    )


def _examine_gpu() -> Gpu:
    built = torch.version.cuda
    if built is None:
        return Gpu(None, (), "this torch is built without CUDA")
    try:
        devices = []
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            devices.append(f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})")
    except (RuntimeError, AssertionError) as error:  # a driver that is there and fails
        return Gpu(built, (), str(error))
    refusals = tuple(map(refuse_machine, range(len(devices))))
    return Gpu(built, tuple(devices), None if devices else _why_no_device(), _driver(), refusals)


def _driver() -> str | None:
    native = native_or_none()
    if native is None or native.build_info()["cuda"] is None:
        return None
    version = driver_version()
    return version if isinstance(version, str) else f"takes CUDA {'.'.join(map(str, version))}"


def _why_no_device() -> str:
    native = native_or_none()
    if native is None or not hasattr(native, "cuda_device_count"):
        return "torch finds no CUDA device"
    try:
        native.cuda_device_count()
    except RuntimeError as error:
        return f"the CUDA runtime says: {error}"
    return "torch finds no CUDA device"


def _examine_backends(device: str) -> tuple[BackendState, ...]:
    """Ask each op's backends about calls on the CPU and, where there is one, on the GPU."""
    states = []
    for name, op in ops().items():
        for where in dict.fromkeys((device, "cpu")):
            objections = op.explain(*SAMPLE_CALLS[name](where))
            for backend in BACKEND_NAMES:
                if backend != "auto":
                    reasons = objections.get(backend, [f"not written for {name} yet"])
                    states.append(BackendState(name, backend, where, tuple(reasons)))
    return tuple(states)


def _examine_weights() -> Weights:
    # found beside this file, not through weft.shapes, which would import diffusers
    folder = Path(__file__).parent / "shapes" / "models" / "sd1"
    if not (folder / "model_index.json").is_file():
        return Weights(str(folder), None)
    return Weights(str(folder), sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def render(report: Report) -> str:
    """Text of a report, one fact a line."""
    sections = {
        "versions": [("python", f"{report.python} on {report.system}")]
        + [(name, version or "not installed") for name, version in report.versions],
        "processor": _cpu_lines(report.cpu),
        "native module": _native_lines(report.native),
        "gpu": _gpu_lines(report.gpu),
        "embedded model": [_weights_line(report.weights)],
        "environment": list(report.environment) or [("WEFT_*", "none is set")],
    }
    for state in report.backends:
        heading = f"{state.op} on {state.device}"
        line = (state.backend, "yes" if not state.reasons else f"no: {'; '.join(state.reasons)}")
        sections.setdefault(heading, []).append(line)
    width = max(len(name) for lines in sections.values() for name, _ in lines)
    blocks = [
        "\n".join([heading, *(f"  {name:<{width}}  {text}" for name, text in lines)])
        for heading, lines in sections.items()
    ]
    return "\n\n".join(blocks)


def _cpu_lines(cpu: Cpu) -> list[tuple[str, str]]:
    return [
        ("model", cpu.model),
        ("cores", f"{cpu.cores}, torch uses {cpu.torch_threads}"),
        ("features", " ".join(cpu.features) or "unknown"),
    ]


def _native_lines(native: Native) -> list[tuple[str, str]]:
    if native.problem is not None:
        return [("usable", f"no: {native.problem}")]
    sets = " ".join(name if is_usable else f"({name})" for name, is_usable in native.instruction_sets)
    unusable = any(not is_usable for _, is_usable in native.instruction_sets)
    return [
        ("compiler", native.compiler),
        ("instruction sets", sets + (", in brackets: not on this processor" if unusable else "")),
        ("chosen", native.chosen),
        ("threads", native.threads),
        ("cuda", f"{native.cuda} for sm {' '.join(native.cuda_archs)}" if native.cuda else "built without CUDA"),
    ]


def _gpu_lines(gpu: Gpu) -> list[tuple[str, str]]:
    lines = [("torch's CUDA", gpu.torch_cuda or "none")]
    if gpu.driver is not None:
        lines.append(("driver", gpu.driver))
    lines += [(f"device {index}", name) for index, name in enumerate(gpu.devices)]
    for index, reasons in enumerate(gpu.refusals):
        lines.append((f"cuda on {index}", "yes" if not reasons else f"no: {'; '.join(reasons)}"))
    return [*lines, ("devices", f"none: {gpu.problem}")] if gpu.problem else lines


def _weights_line(weights: Weights) -> tuple[str, str]:
    if weights.size_bytes is None:
        return "weights", f"missing from {weights.folder}"
    return "weights", f"{weights.folder} ({weights.size_bytes / 1e6:.1f} MB)"
