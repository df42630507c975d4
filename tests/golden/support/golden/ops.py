"""Rows of the ops: outputs, maps and gradients, of the definition and of the kernels of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from golden.inputs import Draw, with_gradients
from golden.row import Tensors, add_row, compact
from weft.ops import Columns, Edit, attention, bounded_logit, contrastive_loss, lowrank_linear, pairwise_error, regions

BACKENDS = ("reference", "cpu")
# sums of a few hundred products, in another order
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2}


def _enter(
    name: str,
    make: Callable[..., Tensors],
    dtype: torch.dtype = torch.float32,
    backends: tuple[str, ...] = BACKENDS,
    **given: Any,
) -> None:
    for backend in backends:
        run = partial(make, backend=backend, dtype=dtype, **given)
        add_row(f"ops/{name}-{backend}", lambda run=run: compact(run()), TOLERANCES[dtype])


# --- attention ---------------------------------------------------------------------------------------------------


def _attention(
    backend: str,
    dtype: torch.dtype,
    sizes: tuple[int, int, int, int, int],
    tables: tuple[str, ...] = (),
    maps: int = 0,
    own: bool = False,
    padding: bool = False,
) -> Tensors:
    """Sizes are B, Nq, Nk, H, D; with ``own`` each key has a label of its own."""
    samples, seqlen_q, seqlen_k, heads, width = sizes
    draw, wide = Draw(1), torch.promote_types(dtype, torch.float32)
    floats = {"q": draw.normal(samples, seqlen_q, heads, width, dtype=dtype, scale=2.0)}
    floats |= {name: draw.normal(samples, seqlen_k, heads, width, dtype=dtype) for name in ("k", "v")}
    labels: dict[str, Tensor] = {}
    if tables:
        label_count = seqlen_k if own else 4
        labels["query_labels"] = draw.integers(3, samples, seqlen_q)
        labels["key_labels"] = torch.arange(seqlen_k)[None] if own else draw.integers(4, samples, seqlen_k)
        for name in tables:
            table = draw.normal(samples, 3, label_count, scale=0.4, dtype=wide)
            floats[name] = 1 + table if name == "alpha" else table
        if "delta" in tables:
            floats["delta"][draw.chance(0.15, *floats["delta"].shape)] = -torch.inf
            floats["delta"][0, 1] = -torch.inf  # rows without a valid key
    if maps:
        floats["readout"] = draw.normal(samples, seqlen_k, maps, dtype=wide)
    key_padding = draw.chance(0.3, samples, seqlen_k) if padding else None

    def call(q: Tensor, k: Tensor, v: Tensor, readout: Tensor | None = None, **edit: Tensor) -> Any:
        chosen = Edit(**edit) if edit else None
        options: dict[str, Any] = {"edit": chosen, "key_padding": key_padding, "backend": backend, **labels}
        return attention(q, k, v, readout=readout, **options)

    return with_gradients(call, floats, ("out", "maps") if maps else ("out",), seed=2)


ALL_TABLES = ("alpha", "beta", "gamma", "delta")
_enter("attention/plain", _attention, sizes=(2, 37, 19, 2, 8))
_enter("attention/long", _attention, sizes=(1, 256, 256, 2, 40), maps=2)
_enter("attention/maps", _attention, sizes=(2, 64, 77, 2, 16), maps=5, padding=True)
_enter("attention/bias", _attention, sizes=(2, 48, 77, 2, 16), tables=("delta",), own=True, maps=3)
_enter("attention/edited", _attention, sizes=(2, 37, 41, 3, 24), tables=ALL_TABLES, maps=4, padding=True)
_enter("attention/edited-bf16", _attention, torch.bfloat16, sizes=(2, 37, 41, 3, 32), tables=ALL_TABLES, maps=4)
_enter("attention/edited-fp64", _attention, torch.float64, ("reference",), sizes=(2, 9, 11, 2, 8), tables=ALL_TABLES)


# --- lowrank_linear ----------------------------------------------------------------------------------------------


def _lowrank(
    backend: str, dtype: torch.dtype, ranks: tuple[int, ...], gate: str = "rows", base: bool = False
) -> Tensors:
    """Gates are [K], [B, K] or [B, N, K]; with ``base`` a layer's own image instead of its weight."""
    samples, grid, width_in, width_out = 2, (6, 8), 40, 24
    rows, total, concepts = grid[0] * grid[1], sum(ranks), len(ranks)
    draw, wide = Draw(3), torch.promote_types(dtype, torch.float32)
    floats = {
        "x": draw.normal(samples, rows, width_in, dtype=dtype),
        "down": draw.normal(total, width_in, scale=width_in**-0.5, dtype=dtype),
        "up": draw.normal(width_out, total, scale=0.5, dtype=dtype),
    }
    if base:
        image = draw.normal(samples, width_out, *grid, dtype=dtype)
        floats["base"] = image.contiguous(memory_format=torch.channels_last)
    else:
        floats["weight"] = draw.normal(width_out, width_in, scale=width_in**-0.5, dtype=dtype)
        floats["bias"] = draw.normal(width_out, dtype=dtype)
        floats["residual"] = draw.normal(samples, rows, width_out, dtype=dtype)
    shape = {"concepts": (concepts,), "samples": (samples, concepts), "rows": (samples, rows, concepts)}[gate]
    opened = draw.uniform(*shape) * draw.chance(0.6, *shape)
    floats["gate"] = opened.to(wide)

    def call(x: Tensor, weight: Tensor | None = None, **rest: Any) -> Tensor:
        return lowrank_linear(x, weight, ranks=ranks, backend=backend, **rest)

    return with_gradients(call, floats, ("out",), seed=4)


_enter("lowrank_linear/rows", _lowrank, ranks=(16, 32, 16))
_enter("lowrank_linear/samples", _lowrank, ranks=(16, 16), gate="samples")
_enter("lowrank_linear/concepts", _lowrank, ranks=(32,), gate="concepts")
_enter("lowrank_linear/base", _lowrank, ranks=(16, 16), base=True)
_enter("lowrank_linear/rows-bf16", _lowrank, torch.bfloat16, ranks=(16, 32, 16))
# the kernel of the CPU writes past its buffers at small ranks, at the time of the record
_enter("lowrank_linear/small-ranks", _lowrank, backends=("reference",), ranks=(4, 3, 1))
_enter("lowrank_linear/rows-fp64", _lowrank, torch.float64, ("reference",), ranks=(4, 3))


# --- contrastive_loss, pairwise_error -----------------------------------------------------------------------------


def _contrast(backend: str, dtype: torch.dtype, kind: str) -> Tensors:
    draw = Draw(5)
    count, width = (12, 16) if kind != "long" else (150, 24)
    floats = {"rows": draw.normal(count, width, dtype=dtype), "cols": draw.normal(count, width, dtype=dtype)}
    floats["temperature"] = torch.tensor(0.2 if kind in ("pairs", "classes", "long") else 3.0)
    classes = draw.integers(5, count, dtype=torch.int64)
    twins = torch.arange(count // 2).repeat(2)

    def call(rows: Tensor, cols: Tensor, temperature: Tensor) -> Tensor:
        if kind == "two-kinds":
            columns = [
                Columns(rows, twins, "self", temperature=temperature, weight=0.2),
                Columns(cols, classes=classes, temperature=2.0, symmetric=True),
            ]
            return contrastive_loss(rows, columns, backend=backend)
        options: dict[str, Any] = {
            "pairs": {"symmetric": True, "normalize": True},
            "long": {"symmetric": True, "normalize": True},
            "classes": {"classes": classes, "normalize": True},
            "twins": {"positives": twins, "exclude": "self"},
            "several": {"positives": (classes, classes.flip(0))},
        }[kind]
        return contrastive_loss(rows, cols, temperature=temperature, backend=backend, **options)

    return with_gradients(call, floats, ("loss",), seed=6)


for _kind in ("pairs", "long", "classes", "twins", "several", "two-kinds"):
    _enter(f"contrastive_loss/{_kind}", _contrast, kind=_kind)


def _pairwise(backend: str, dtype: torch.dtype) -> Tensors:
    draw = Draw(7)
    floats = {"pred": draw.normal(5, 4, 3, 4, 6, dtype=dtype), "target": draw.normal(5, 3, 4, 6, dtype=dtype)}

    def call(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        error = pairwise_error(pred, target, backend=backend)
        return error, bounded_logit(error, width=1.5)

    return with_gradients(call, floats, ("error", "logit"), seed=8)


_enter("pairwise_error/pairs", _pairwise)
_enter("pairwise_error/pairs-bf16", _pairwise, torch.bfloat16)


# --- regions -----------------------------------------------------------------------------------------------------


def _windows(backend: str, dtype: torch.dtype) -> Tensors:
    maps = Draw(9).uniform(2, 3, 16, 16).to(dtype)
    # broad hills, as maps of attention are
    maps = torch.nn.functional.avg_pool2d(maps, 5, stride=1, padding=2)
    sizes = regions.window_sizes((16, 16))
    present = torch.tensor([[True, True, True], [True, False, True]])
    given: dict[str, Any] = {"present": present, "backend": backend}
    windows = {
        "forbidden": regions.best_windows(maps, sizes, gap=1, **given),
        "scaled": regions.best_windows(maps, sizes, exclusion="scale", margin=2, fallback="first", **given),
        "factor": regions.best_windows(maps, sizes, exclusion=0.5, protect_share=0.1, **given),
        "assigned": regions.assign_windows(maps, sizes, gap=1, **given),
    }
    masks = regions.window_masks(windows["assigned"], (16, 16))
    labels = regions.labels_of(masks)
    return {
        "sizes": torch.tensor(sizes),
        **windows,
        "masks": masks.to(torch.uint8),
        "labels": labels,
        "first_labels": regions.labels_of(masks, overlap="first"),
        "resized": regions.resize_labels(labels, (7, 9)),
        "edges": regions.soft_edges(masks, 1.5),
        "largest": regions.top_fraction(maps, 0.2).to(torch.uint8),
        "above": regions.above_median(maps).to(torch.uint8),
    }


def _gate(backend: str, dtype: torch.dtype) -> Tensors:
    draw = Draw(10)
    maps, strengths = draw.uniform(2, 64, 3).to(dtype), torch.tensor([[1.0, 0.5, 2.0], [0.0, 1.0, 1.0]]).repeat(2, 1)
    rules: dict[str, str | float] = {"median": "median", "otsu": "otsu", "level": 0.6}
    return {
        f"{name}_{overlap}": regions.concept_gate(maps, strengths, rule, overlap=overlap, backend=backend)
        for name, rule in rules.items()
        for overlap in ("largest", "sum")
    }


_enter("regions/windows", _windows, backends=("reference",))
_enter("regions/gate", _gate, backends=("reference",))
