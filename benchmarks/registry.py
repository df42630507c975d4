"""What can be measured, as data: shapes with names, modes, and the providers that do the same work."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    """

    name: str
    sizes: dict[str, int]
    origin: str
    optional: bool = False


@dataclass(frozen=True)
class Provider:
    """One way to do the work of a mode.

    Attributes:
        name: In tables and records.
        prepare: From the inputs of the op to a call without arguments. What is done here is not timed.
        ours: Whether it is weft; the others are what weft is compared with.
        note: What it does less or otherwise than the full work, if anything.
    """

    name: str
    prepare: Callable[[Any], Call]
    ours: bool = False
    note: str = ""


@dataclass(frozen=True)
class Mode:
    """One kind of work and everybody who can do it."""

    name: str
    providers: tuple[Provider, ...]
    backward: bool = False


@dataclass(frozen=True)
class Benchmark:
    """An op to measure.

    Attributes:
        op: Its name.
        shapes: The sizes.
        modes: The kinds of work.
        dtypes: By the name used on the command line.
        make_inputs: (shape, dtype, mode) to the inputs that ``Provider.prepare`` takes.
        verify: (inputs, provider, result) raises AssertionError if a provider's result is wrong.
        result_bytes: Size of what a call returns; memory is reported beyond it.
        gate: Test paths that must pass before a speed is shown.
    """

    op: str
    shapes: tuple[Shape, ...]
    modes: tuple[Mode, ...]
    dtypes: dict[str, torch.dtype]
    make_inputs: Callable[[Shape, torch.dtype, Mode], Any]
    verify: Callable[[Any, Provider, Any], None]
    result_bytes: Callable[[Any], int]
    gate: tuple[str, ...]


OPS = {"attention": "benchmarks.cases.attention"}


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
