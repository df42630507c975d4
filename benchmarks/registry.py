"""What can be measured, as data: shapes with names, modes, and the providers that do the same work."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

Call = Callable[[], Any]


@dataclass(frozen=True)
class Shape:
    """A size that occurs in a real model.

    Attributes:
        name: How tables and the command line call it.
        sizes: By axis name, for the input maker of the op and for the record.
        origin: The layer that has it.
        optional: Whether it is measured only when asked for, by name or by ``--optional``.
        kind: Which modes it has, where an op has modes that not every shape can have.
    """

    name: str
    sizes: dict[str, int]
    origin: str
    optional: bool = False
    kind: str = ""


@dataclass(frozen=True)
class Provider:
    """One way to do the work of a mode.

    Attributes:
        name: In tables and records.
        prepare: From the inputs of the op to a call without arguments. What is done here is not timed.
        ours: Whether it is weft; the others are what weft is compared with.
        note: What it does less or otherwise than the full work, if anything.
        device: The only type of device it runs on, "" for any.
        yardstick: Whether it is no way to do the work but what the work is measured by: shown, never the baseline.
    """

    name: str
    prepare: Callable[[Any], Call]
    ours: bool = False
    note: str = ""
    device: str = ""
    yardstick: bool = False


@dataclass(frozen=True)
class Mode:
    """One kind of work and everybody who can do it.

    Attributes:
        name: In tables and records.
        providers: weft first.
        backward: Whether gradients are part of it; such a mode is measured only when asked for.
        kinds: The kinds of shape that have it; () for all.
    """

    name: str
    providers: tuple[Provider, ...]
    backward: bool = False
    kinds: tuple[str, ...] = ()

    def applies(self, shape: Shape) -> bool:
        return not self.kinds or shape.kind in self.kinds

    def providers_on(self, device: str) -> tuple[Provider, ...]:
        """Those that run on this type of device."""
        return tuple(p for p in self.providers if p.device in ("", device))


class Costs(NamedTuple):
    """What a piece of work cannot do without: every input read once and every result written once, the products."""

    size_bytes: int
    flops: int


@dataclass(frozen=True)
class Benchmark:
    """An op to measure.

    Attributes:
        op: Its name.
        shapes: The sizes.
        modes: The kinds of work.
        dtypes: By the name used on the command line.
        make_inputs: (shape, dtype, mode) to the inputs that ``Provider.prepare`` takes; for a benchmark that runs on a
            GPU also with ``device=`` and ``seed=``.
        verify: (inputs, provider, result) raises AssertionError if a provider's result is wrong.
        result_bytes: Size of what a call returns; memory is reported beyond it.
        gate: Test paths that must pass before a speed is shown.
        default_dtypes: Those measured where none is asked for; () for all.
        costs: (shape, dtype, mode) to the fewest bytes through memory and the fewest floating-point operations.
    """

    op: str
    shapes: tuple[Shape, ...]
    modes: tuple[Mode, ...]
    dtypes: dict[str, torch.dtype]
    make_inputs: Callable[..., Any]
    verify: Callable[[Any, Provider, Any], None]
    result_bytes: Callable[[Any], int]
    gate: tuple[str, ...]
    default_dtypes: tuple[str, ...] = ()
    costs: Callable[[Shape, torch.dtype, Mode], Costs] | None = None


OPS = {
    "attention": "benchmarks.cases.attention.case",
    "lowrank_linear": "benchmarks.cases.lowrank_linear.case",
    "contrastive_loss": "benchmarks.cases.contrastive_loss.case",
    "pairwise_error": "benchmarks.cases.pairwise_error",
    "regions": "benchmarks.cases.regions",
    "maskdiffusion": "benchmarks.cases.maskdiffusion",
    "localized_residuals": "benchmarks.cases.localized_residuals",
    "soft_tokens": "benchmarks.cases.soft_tokens",
    "soft_tokens_step": "benchmarks.cases.soft_tokens_step",
    "gan_step": "benchmarks.cases.gan_step",
    "inpainting": "benchmarks.cases.inpainting",
    "task_branch": "benchmarks.cases.task_branch",
}


def load(op: str) -> Benchmark:
    """The benchmark of ``op``.

    Raises:
        ValueError: There is none of this name.
    """
    if op not in OPS:
        raise ValueError(f"benchmarks: `op` must be one of {', '.join(OPS)}; got {op!r}")
    benchmark = importlib.import_module(OPS[op]).BENCHMARK
    assert isinstance(benchmark, Benchmark)
    return benchmark


def select(kind: str, known: tuple[Any, ...], names: tuple[str, ...], optional: bool = True) -> tuple[Any, ...]:
    """Those of ``known`` with these names; with no names, all, or all that are not optional.

    Raises:
        ValueError: A name is not known.
    """
    if not names:
        return tuple(x for x in known if optional or not getattr(x, "optional", False))
    by_name = {x.name: x for x in known}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise ValueError(f"benchmarks: `{kind}` must be of {', '.join(by_name)}; got {', '.join(unknown)}")
    return tuple(by_name[name] for name in names)
