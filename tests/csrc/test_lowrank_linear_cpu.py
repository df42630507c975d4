"""The CPU backend of ``lowrank_linear`` by every way this processor has: numbers, bits, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from weft._native_loader import native, native_or_none
from weft.ops import lowrank_linear
from weft.ops.lowrank_linear import cpu_fused as fused
from weft.testing import (
    ADDENDS,
    GATES,
    WEIGHTS,
    X_LAYOUTS,
    LowrankCase,
    assert_as_accurate_as_eager,
    assert_bitwise,
    assert_unbiased,
    lowrank_linear_eager,
    make_lowrank_inputs,
)

pytestmark = pytest.mark.skipif(native_or_none() is None, reason="weft._native is not built")

ISAS = [] if native_or_none() is None else [name for name, usable in native().instruction_sets().items() if usable]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# two squares and a strip of ranks, none of which begins where a square does
CASE = LowrankCase(grid=(7, 15), width_in=80, width_out=72, ranks=(16, 5, 16), residual="rows")
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))

Run = Callable[..., Tensor]


@pytest.fixture(params=[*ISAS, "blas"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run(case)``: the op on the CPU by one instruction set of the kernel, or by BLAS, held to the oracle."""
    way: str = request.param
    monkeypatch.setattr(fused, "is_faster", lambda dtype: way != "blas")
    monkeypatch.setattr(fused, "lowrank_linear_fwd_fused", partial(fused.lowrank_linear_fwd_fused, isa=way))

    def call(case: LowrankCase, seed: int = 0) -> Tensor:
        inputs = make_lowrank_inputs(case, seed)
        found = lowrank_linear(**inputs.arguments(), backend="cpu")
        exact = lowrank_linear(**inputs.in_float64().arguments(), backend="reference")
        size = 4.0 + sum(case.ranks) ** 0.5
        for check in (assert_as_accurate_as_eager, assert_unbiased):
            check("y", found, lowrank_linear_eager(inputs), exact, size=size)
        return found

    return call


# --- numbers --------------------------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 63, 64, 65, 130, 600])
def test_widths(run: Run, dtype: torch.dtype, width: int) -> None:
    run(replace(CASE, dtype=dtype, width_in=width))
    run(replace(CASE, dtype=dtype, width_out=width))


@every_dtype
@pytest.mark.parametrize("rows", [1, 5, 12, 95, 96, 97, 200])
@pytest.mark.parametrize("residual", ["none", "rows", "image"])
def test_rows_and_images(run: Run, dtype: torch.dtype, rows: int, residual: str) -> None:
    run(replace(CASE, dtype=dtype, grid=(1, rows), residual=residual))


@every_dtype
@pytest.mark.parametrize("ranks", [(1,), (16,), (3, 5), (16,) * 5, (8, 40, 16, 1), (16,) * 64])
@pytest.mark.parametrize("gate", GATES)
def test_ranks_and_gates(run: Run, dtype: torch.dtype, ranks: tuple[int, ...], gate: str) -> None:
    for closed in (0.0, 0.5, 0.95):
        run(replace(CASE, dtype=dtype, ranks=ranks, gate=gate, closed=closed))


# many small ranks, which share squares, and gates of which few to most rows are open: each rank, concepts, rows, width
# and share that is open
CROWDS = (
    (16, 4, 256, 64, 0.6),
    (4, 4, 256, 64, 0.6),
    (8, 4, 256, 64, 0.6),
    (10, 3, 256, 64, 0.6),
    (4, 8, 256, 64, 0.5),
    (4, 8, 200, 320, 0.3),
    (1, 16, 256, 64, 0.5),
    (2, 16, 200, 320, 0.4),
    (1, 64, 256, 64, 0.5),
    (1, 64, 100, 32, 0.5),
    (1, 66, 100, 2, 0.5),
    (8, 8, 200, 320, 0.5),
    (3, 80, 97, 33, 0.2),
    (40, 7, 97, 33, 0.7),
)


@every_dtype
@pytest.mark.parametrize(("rank", "concepts", "rows", "width", "share"), CROWDS)
def test_crowds_of_small_ranks(
    run: Run, dtype: torch.dtype, rank: int, concepts: int, rows: int, width: int, share: float
) -> None:
    case = LowrankCase(
        samples=1, grid=(1, rows), width_in=width, width_out=width, ranks=(rank,) * concepts, closed=1 - share
    )
    run(replace(case, dtype=dtype))


@every_dtype
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("x_layout", X_LAYOUTS)
def test_layouts(run: Run, dtype: torch.dtype, weight: str, x_layout: str) -> None:
    run(replace(CASE, dtype=dtype, weight=weight, x_layout=x_layout))


@every_dtype
@pytest.mark.parametrize("residual", ADDENDS)
def test_addends(run: Run, dtype: torch.dtype, residual: str) -> None:
    for weight in ("linear", "base"):
        # one cell, one column: strides along them say nothing
        for changed in ({}, {"grid": (1, 1)}, {"width_out": 1}, {"grid": (1, 1), "width_out": 1}):
            run(replace(CASE, dtype=dtype, weight=weight, residual=residual, **changed))


@every_dtype
def test_a_layer_too_large_for_the_caches(run: Run, dtype: torch.dtype) -> None:
    """More rows a tile, and more memory than a thread keeps."""
    run(replace(CASE, dtype=dtype, samples=1, grid=(1, 200), width_in=2100, width_out=2100))


@pytest.mark.parametrize("ranks", [(), (16, 5, 16)])
@pytest.mark.parametrize("weight", ["linear", "base"])
@pytest.mark.parametrize("sizes", [{"samples": 0}, {"grid": (0, 3)}])
def test_nothing_to_project(run: Run, ranks: tuple[int, ...], weight: str, sizes: dict[str, Any]) -> None:
    found = run(replace(CASE, ranks=ranks, weight=weight, gate="none", **sizes))
    assert found.numel() == 0


def test_no_channels() -> None:
    """All products are sums of nothing."""
    bias, empty = torch.randn(5), torch.ones(2, 3, 0)
    found = lowrank_linear(empty, torch.ones(5, 0), bias, down=torch.ones(4, 0), up=torch.ones(5, 4), backend="cpu")
    assert torch.equal(found, bias.expand(2, 3, 5))


# --- bits -----------------------------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("residual", ["rows", "image"])
def test_threads_change_no_bit(dtype: torch.dtype, residual: str) -> None:
    inputs = make_lowrank_inputs(replace(CASE, dtype=dtype, width_out=300, residual=residual))
    found = []
    for threads in (1, 2, 5, 16):
        torch.set_num_threads(threads)
        try:
            found.append(lowrank_linear(**inputs.arguments(), backend="cpu"))
        finally:
            torch.set_num_threads(1)
    for other in found[1:]:
        assert_bitwise("y", other, found[0])


@every_dtype
@pytest.mark.parametrize("gate", GATES[1:])
def test_a_closed_gate_changes_no_bit(run: Run, dtype: torch.dtype, gate: str) -> None:
    case = replace(CASE, dtype=dtype, gate=gate, closed=1.0)
    alone = lowrank_linear(**make_lowrank_inputs(case).without_concepts().arguments(), backend="cpu")
    assert_bitwise("y", run(case), alone)


# --- what it refuses ------------------------------------------------------------------------------------------------

REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "size": ({"sizes": (1, -2, 3, 4)}, "`N` must not be negative; got -2"),
    "threads": ({"num_threads": 0}, "`num_threads` must be at least 1; got 0"),
    "dtype": ({"dtype": 3}, "`dtype` must be float32, float16 or bfloat16; got code 3"),
    "ranks": ({"ranks": (2, 0)}, "`ranks` must be 1 or more each; got 0"),
    "x": ({"x": (0, 6, 3, 1)}, "`x` must not be null"),
    "out": ({"out": (0, 8, 4, 1)}, "`out` must not be null"),
    "neither": ({"weight": (0, 0, 0, 1)}, "`weight or base` must not be null"),
    "both": ({"base": (64, 8, 4, 1)}, "`weight` and `base` must not both be given"),
    "down": ({"down": (0, 0, 3, 1)}, "`down` must not be null"),
    "gate": ({"ranks": (), "gate": (64, 0, 0, 1)}, "`gate` must be null without ranks"),
    "strides": ({"x": (64, 6, 3, 2)}, "`x` must have unit stride along rows or columns; got 3 and 2"),
    "negative": ({"x": (64, 6, -3, 1)}, "strides of `x` must not be negative; got -3"),
    "far": ({"x": (64, 6, 2**60, 1)}, "`x` must have and span less than 2^56 elements"),
    "addend": ({"residual": (64, 8, 1, 2)}, "`residual` must have unit stride along the axis that `out` has it"),
    "isa": ({"isa": "sse9"}, "sse9"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    """Before a pointer is followed: 64 is no valid address."""
    changed, message = REFUSALS[name]
    stacks = {
        "x": (64, 6, 3, 1),
        "weight": (64, 0, 3, 1),
        "down": (64, 0, 3, 1),
        "up": (64, 0, 2, 1),
        "gate": (0, 0, 0, 1),
        "residual": (0, 0, 0, 1),
        "base": (0, 0, 0, 1),
        "out": (64, 8, 4, 1),
    }
    others = {"bias": 0, "sizes": (1, 2, 3, 4), "ranks": (2,), "dtype": 0, "num_threads": 1, "isa": "auto"}
    stacks |= {name: value for name, value in changed.items() if name in stacks}
    others |= {name: value for name, value in changed.items() if name in others}
    with pytest.raises(ValueError, match=re.escape(message)):
        native().lowrank_linear_fwd_cpu(tuple(stacks.values()), **others)
