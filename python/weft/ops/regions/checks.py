"""What the functions of ``regions`` ask of their arguments: one message for each way they can be wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weft.ops._tensors import FLOAT_DTYPES, INTEGER_DTYPES, check_tensor
from weft.ops._tensors import dtype_name as _name

Size = tuple[int, int]

# a bitmask of this many objects still fits int32
MAX_BITS = 31
EXCLUSIONS = {"forbid": None, "scale": -2.0}
FALLBACKS = ("empty", "first")
OVERLAPS = ("bitmask", "first")
GATE_RULES = ("median", "otsu")
GATE_OVERLAPS = ("largest", "sum")


def check_maps(op: str, maps: Tensor) -> None:
    """[B, n, h, w], float."""
    _check_tensor(op, "maps", maps, "[B, n, h, w]", 4)
    _check_floats(op, maps)
    if 0 in maps.shape[2:]:
        raise ValueError(f"{op}: `maps` must have at least one row and one column; got {list(maps.shape)}")


def check_masks(op: str, masks: Tensor) -> None:
    """[B, n, h, w], bool."""
    _check_tensor(op, "masks", masks, "[B, n, h, w]", 4)
    if masks.dtype != torch.bool:
        raise TypeError(f"{op}: `masks` must be bool; got {_name(masks.dtype)}; compare floats with a threshold first")


def check_windows(op: str, windows: Tensor) -> None:
    """[B, n, 4], integer."""
    _check_tensor(op, "windows", windows, "[B, n, 4] (top, left, height, width)", 3)
    if windows.shape[2] != 4:
        raise ValueError(f"{op}: `windows` must be [B, n, 4] (top, left, height, width); got {list(windows.shape)}")
    check_integers(op, "windows", windows)


def check_labels(op: str, labels: Tensor) -> None:
    """[B, h, w], integer."""
    _check_tensor(op, "labels", labels, "[B, h, w]", 3)
    check_integers(op, "labels", labels)
    if 0 in labels.shape[1:]:
        raise ValueError(f"{op}: `labels` must have at least one row and one column; got {list(labels.shape)}")


def check_integers(op: str, name: str, x: Tensor) -> None:
    """Not floats, which would round, and not bool."""
    if x.dtype not in INTEGER_DTYPES:
        known = ", ".join(map(_name, INTEGER_DTYPES))
        raise TypeError(f"{op}: `{name}` must be an integer tensor; got {_name(x.dtype)}; use {known}")


def check_present(op: str, present: Tensor, maps: Tensor) -> None:
    """bool [B, n] beside the maps."""
    _check_tensor(op, "present", present, "[B, n]", 2)
    if present.dtype != torch.bool:
        raise TypeError(f"{op}: `present` must be bool; got {_name(present.dtype)}")
    if present.shape != maps.shape[:2]:
        raise ValueError(
            f"{op}: `present` must be [B, n] = {list(maps.shape[:2])} to match maps; got {list(present.shape)}"
        )
    if present.device != maps.device:
        raise ValueError(f"{op}: `present` must be on the device of maps, {maps.device}; got {present.device}")


def check_columns(op: str, maps: Tensor) -> None:
    """[B, N, K], float."""
    _check_tensor(op, "maps", maps, "[B, N, K]", 3)
    _check_floats(op, maps)


def check_strengths(op: str, strengths: Tensor, maps: Tensor) -> None:
    """float [B', K] beside [B, N, K], B' a multiple of B."""
    _check_tensor(op, "strengths", strengths, "[B', K]", 2)
    wide = torch.float64 if maps.dtype == torch.float64 else torch.float32
    if strengths.dtype != wide:
        raise TypeError(
            f"{op}: `strengths` must be {_name(wide)} beside maps of {_name(maps.dtype)}; got {_name(strengths.dtype)}"
        )
    samples, _, concepts = maps.shape
    rows = strengths.shape[0]
    if strengths.shape[1] != concepts or (rows % samples if samples else rows):
        raise ValueError(
            f"{op}: `strengths` must be [B', K] = [a multiple of {samples}, {concepts}] to match maps; got "
            f"{list(strengths.shape)}; give each row of the result its own strengths"
        )
    if strengths.device != maps.device:
        raise ValueError(f"{op}: `strengths` must be on the device of maps, {maps.device}; got {strengths.device}")


def check_rule(op: str, rule: Any) -> str | float:
    """A name, or a number in [0, 1)."""
    if isinstance(rule, str):
        return check_choice(op, "rule", rule, GATE_RULES, " or a number in [0, 1)")
    level = check_number(op, "rule", rule)
    if not 0 <= level < 1:
        raise ValueError(f"{op}: `rule`, a share of the range of a map, must be in [0, 1); got {rule}")
    return level


def check_out(op: str, out: Tensor, shape: tuple[int, ...], strengths: Tensor) -> None:
    """Contiguous, of this shape, dtype and device of ``strengths``, and nothing to differentiate."""
    _check_tensor(op, "out", out, "[B', N, K]", 3)
    if out.dtype != strengths.dtype:
        raise TypeError(
            f"{op}: `out` must have the dtype of strengths, {_name(strengths.dtype)}; got {_name(out.dtype)}"
        )
    if tuple(out.shape) != shape or not out.is_contiguous():
        layout = "" if out.is_contiguous() else ", not contiguous"
        raise ValueError(f"{op}: `out` must be [B', N, K] = {list(shape)}, contiguous; got {list(out.shape)}{layout}")
    if out.device != strengths.device:
        raise ValueError(f"{op}: `out` must be on the device of maps, {strengths.device}; got {out.device}")
    if out.requires_grad:
        raise ValueError(f"{op}: `out` must not require a gradient, since it is overwritten; detach it")


def check_size(op: str, name: str, size: Any) -> Size:
    """(rows, columns), each at least 1."""
    if not isinstance(size, (tuple, list, torch.Size)) or not all(_is_integer(x) for x in size):
        raise TypeError(f"{op}: `{name}` must be two integers (rows, columns); got {size!r}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"{op}: `{name}` must be two integers (rows, columns), 1 or more; got {tuple(size)}")
    return int(size[0]), int(size[1])


def check_sizes(op: str, sizes: Sequence[Any], grid: Size, margin: int, needs_first: bool) -> tuple[Size, ...]:
    """At least one (height, width), one of them within the grid less its margin; the first too where it is needed."""
    if isinstance(sizes, (str, Tensor)) or not isinstance(sizes, Sequence):
        raise TypeError(f"{op}: `sizes` must be a sequence of (height, width); got {type(sizes).__name__}")
    checked = tuple(check_size(op, "sizes", size) for size in sizes)
    if not checked:
        raise ValueError(f"{op}: `sizes` must hold at least one (height, width); got none; see window_sizes")
    fits = (grid[0] - margin, grid[1] - margin)
    if not any(height <= fits[0] and width <= fits[1] for height, width in checked):
        raise ValueError(
            f"{op}: one of `sizes` must fit into {fits[0]} x {fits[1]} cells, the grid {grid[0]} x {grid[1]} less its "
            f"margin of {margin}; got {', '.join(f'{height} x {width}' for height, width in checked)}"
        )
    if needs_first and (checked[0][0] > grid[0] or checked[0][1] > grid[1]):
        raise ValueError(
            f"{op}: the first of `sizes` must fit into the grid {grid[0]} x {grid[1]}, since `fallback` is 'first'; "
            f"got {checked[0][0]} x {checked[0][1]}"
        )
    return checked


def check_count(op: str, name: str, count: Any) -> int:
    """An integer, not negative."""
    if not _is_integer(count):
        raise TypeError(f"{op}: `{name}` must be an integer; got {count!r}")
    if count < 0:
        raise ValueError(f"{op}: `{name}` must be 0 or more; got {count}")
    return int(count)


def check_gap(op: str, gap: Any, exclusion: float | None) -> int:
    """Cells, 0 where windows may overlap."""
    cells = check_count(op, "gap", gap)
    if cells and exclusion is not None:
        raise ValueError(f'{op}: `gap` needs exclusion="forbid"; got gap = {cells} and the factor {exclusion:g}')
    return cells


def check_share(op: str, name: str, share: Any, least_is_zero: bool = True) -> float:
    """A number in [0, 1], or in (0, 1]."""
    number = check_number(op, name, share)
    if number > 1 or number < 0 or (number == 0 and not least_is_zero):
        interval = "[0, 1]" if least_is_zero else "(0, 1]"
        raise ValueError(f"{op}: `{name}` must be a share of the grid in {interval}; got {share}")
    return number


def check_side(op: str, smallest: Any) -> int:
    """An integer, 1 or more."""
    if not _is_integer(smallest):
        raise TypeError(f"{op}: `smallest` must be an integer or None; got {smallest!r}")
    if smallest < 1:
        raise ValueError(f"{op}: `smallest` must be 1 or more; got {smallest}")
    return int(smallest)


def check_aspects(op: str, aspects: Any) -> tuple[float, ...]:
    """At least one number above 0."""
    if isinstance(aspects, str) or not isinstance(aspects, Sequence):
        raise TypeError(f"{op}: `aspects` must be a sequence of height / width; got {aspects!r}")
    checked = tuple(check_number(op, "aspects", aspect) for aspect in aspects)
    if not checked or min(checked) <= 0:
        raise ValueError(f"{op}: `aspects` must be one or more numbers above 0; got {tuple(aspects)}")
    return checked


def check_number(op: str, name: str, value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{op}: `{name}` must be a number; got {value!r}")
    # math.isfinite would stop a compiler that has made a number of its own out of one that changes
    if not -math.inf < value < math.inf:
        raise ValueError(f"{op}: `{name}` must be finite; got {value}")
    return float(value)


def check_exclusion(op: str, exclusion: Any) -> float | None:
    """The factor for cells that are taken; None where overlap is forbidden."""
    if isinstance(exclusion, str):
        return EXCLUSIONS[check_choice(op, "exclusion", exclusion, tuple(EXCLUSIONS), " or a factor")]
    return check_number(op, "exclusion", exclusion)


def check_choice(op: str, name: str, value: Any, known: tuple[str, ...], beside: str = "") -> str:
    """One of the ``known`` names."""
    if value not in known:
        listed = ", ".join(map(repr, known))
        raise ValueError(f"{op}: `{name}` must be one of {listed}{beside}; got {value!r}")
    return str(value)


def _check_floats(op: str, maps: Tensor) -> None:
    if maps.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"{op}: `maps` must be a float tensor; got {_name(maps.dtype)}; use float32, bfloat16, float16 or float64"
        )


def _check_tensor(op: str, name: str, x: Any, axes: str, rank: int) -> None:
    check_tensor(op, name, x, f"a tensor {axes}")
    if x.ndim != rank:
        raise ValueError(f"{op}: `{name}` must be {axes}; got {list(x.shape)}, {x.ndim} axes")


def _is_integer(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)
