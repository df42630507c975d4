"""A row of numbers: a name, what makes its tensors, and how far another machine's may lie from the stored ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

SMALLEST_SCALE = 1e-2  # a gradient that is zero in mathematics has no scale of its own
WHOLE = 2048  # elements; larger tensors are stored as samples and means
SAMPLES, MEANS = 512, 512


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: Also the path of its file, without the ending.
        make: Computes its tensors.
        tolerance: The largest difference that rounding may make, as a share of a tensor's largest value.
    """

    name: str
    make: Callable[[], Tensors]
    tolerance: float


ROWS: dict[str, Row] = {}


def add_row(name: str, make: Callable[[], Tensors], tolerance: float) -> None:
    """Enter a row."""
    assert name not in ROWS, name
    ROWS[name] = Row(name, make, tolerance)


def compact(tensors: Tensors) -> Tensors:
    """The same with large tensors replaced by every n-th element and by means of chunks, which see every element."""
    found: Tensors = {}
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        if value.numel() <= WHOLE:
            found[name] = value.clone()
            continue
        flat = value.flatten()
        found[f"{name}.sample"] = flat[:: math.ceil(flat.numel() / SAMPLES)].clone()
        size = math.ceil(flat.numel() / MEANS)
        # float64, so that a mean is as exact as its elements
        found[f"{name}.means"] = torch.stack([chunk.double().mean() for chunk in flat.split(size)]).to(value.dtype)
    return found


def differences(row: Row, found: Tensors, stored: Tensors) -> list[str]:
    """What is wrong with ``found``, one line a tensor; nothing where every value is within the tolerance."""
    lines = []
    for name in sorted({*found, *stored}):
        if name not in stored or name not in found:
            lines.append(f"{row.name}: {name}: is {'not stored' if name in found else 'stored and no longer made'}")
        elif (line := _difference(found[name], stored[name], row.tolerance)) is not None:
            lines.append(f"{row.name}: {name}: {line}")
    return lines


def limit(stored: Tensor, tolerance: float) -> float:
    """The largest difference that is allowed from any value of ``stored``; 0 for whole numbers."""
    if not stored.is_floating_point():
        return 0.0
    finite = stored[stored.isfinite()].abs()
    return tolerance * max(float(finite.max()) if finite.numel() else 0.0, SMALLEST_SCALE)


def _difference(found: Tensor, stored: Tensor, tolerance: float) -> str | None:
    if found.shape != stored.shape or found.dtype != stored.dtype:
        return f"is {found.dtype} {list(found.shape)}, was {stored.dtype} {list(stored.shape)}"
    if not found.numel():
        return None
    now, was = found.double(), stored.double()
    # values that are not finite have to be the same, and differ by 0 then
    same = (now == was) | (now.isnan() & was.isnan())
    off = torch.where(same, 0.0, (now - was).abs()).nan_to_num(math.inf)
    allowed = limit(stored, tolerance)
    if float(off.max()) <= allowed:
        return None
    place = [int(index) for index in torch.unravel_index(off.argmax(), off.shape)]
    count = int((off > allowed).sum())
    return (
        f"is {float(now[tuple(place)]):.8g} at {place}, was {float(was[tuple(place)]):.8g}; differs by "
        f"{float(off.max()):.3g}, allowed {allowed:.3g}; so do {count} of {off.numel()} values"
    )
