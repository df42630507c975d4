"""What ``lowrank_linear`` asks of its arguments: one message for each way they can be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from weft.ops._tensors import FLOAT_DTYPES, check_tensor
from weft.ops._tensors import dtype_name as _name

WRAPPED = "hand over that layer's own output as `base` and leave `weight` and `bias` out"

Size = tuple[int, int]


def check_x(x: Tensor) -> None:
    """Type, axes and dtype of the input."""
    _check_type("x", x, "a tensor")
    if x.ndim < 2:
        raise ValueError(f"lowrank_linear: `x` must be [..., rows, Cin]; got {list(x.shape)}, {x.ndim} axes")
    if x.dtype not in FLOAT_DTYPES:
        raise TypeError(f"lowrank_linear: `x` must be float32, bfloat16, float16 or float64; got {_name(x.dtype)}")


def check_weight(weight: Tensor, bias: Tensor | None, x: Tensor) -> None:
    """A plain layer of the width of ``x``: what is packed, quantised or wrapped has another way in."""
    _check_type("weight", weight, "a tensor or None")
    if not torch.compiler.is_compiling() and is_traceable_wrapper_subclass(weight):
        raise TypeError(
            f"lowrank_linear: `weight` must be a plain tensor; got {type(weight).__name__}, which is wrapped or "
            f"quantised; {WRAPPED}"
        )
    if weight.dtype != x.dtype:
        advice = "convert it with .to(x.dtype)" if weight.dtype in FLOAT_DTYPES else f"if it is quantised, {WRAPPED}"
        raise TypeError(
            f"lowrank_linear: `weight` must have the dtype of x, {_name(x.dtype)}; got {_name(weight.dtype)}; {advice}"
        )
    _check_matrix("weight", weight, "Cout, Cin")
    if weight.shape[1] != x.shape[-1]:
        raise ValueError(
            f"lowrank_linear: `weight` must be [Cout, Cin] = [Cout, {x.shape[-1]}] to match x; "
            f"got {list(weight.shape)}"
        )
    _check_device("weight", weight, x)
    if bias is not None:
        _check_type("bias", bias, "a tensor or None")
        _check_dtype("bias", bias, x)
        if bias.shape != (weight.shape[0],):
            raise ValueError(
                f"lowrank_linear: `bias` must be [Cout] = [{weight.shape[0]}] to match weight; got {list(bias.shape)}"
            )
        _check_device("bias", bias, x)


def check_one_base(weight: Tensor | None, bias: Tensor | None, base: Tensor | None) -> None:
    """Either the layer's weight or what the layer gave."""
    if weight is None and base is None:
        raise ValueError("lowrank_linear: needs `weight`, or `base`, what the layer itself gave; got neither")
    if weight is not None and base is not None:
        raise ValueError("lowrank_linear: `base` replaces `weight`; got both; leave one of them out")
    if base is not None and bias is not None:
        raise ValueError("lowrank_linear: `base` has its bias already; got both; leave `bias` out")


def check_factors(down: Tensor | None, up: Tensor | None, x: Tensor, width: int) -> None:
    """Both factors or neither, of one rank; ``width`` is Cout."""
    if down is None and up is None:
        return
    for name, factor in (("down", down), ("up", up)):
        if factor is None:
            other = "up" if name == "down" else "down"
            raise ValueError(f"lowrank_linear: `{other}` needs `{name}` beside it; got None; give both or neither")
        _check_type(name, factor, "a tensor or None")
        _check_dtype(name, factor, x)
        _check_matrix(name, factor, "R, Cin" if name == "down" else "Cout, R")
    assert down is not None and up is not None
    if down.shape[0] < 1:
        raise ValueError("lowrank_linear: `down` must have at least one rank; got R = 0; leave both factors out")
    if down.shape[1] != x.shape[-1]:
        raise ValueError(
            f"lowrank_linear: `down` must be [R, Cin] = [R, {x.shape[-1]}] to match x; got {list(down.shape)}; it is "
            "the factor that is applied first"
        )
    if up.shape[:2] != (width, down.shape[0]):
        raise ValueError(
            f"lowrank_linear: `up` must be [Cout, R] = [{width}, {down.shape[0]}]; got {list(up.shape)}; it is the "
            "factor that is applied second"
        )
    _check_device("down", down, x)
    _check_device("up", up, x)


def check_ranks(ranks: Sequence[int] | None, total: int) -> tuple[int, ...]:
    """Ranks that are there and use up all of R; one concept where none are given."""
    if ranks is None:
        return (total,) if total else ()
    if isinstance(ranks, (str, Tensor)) or not isinstance(ranks, Sequence):
        raise TypeError(f"lowrank_linear: `ranks` must be a sequence of integers or None; got {type(ranks).__name__}")
    if not all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranks):
        raise TypeError(f"lowrank_linear: `ranks` must be integers; got {list(ranks)}")
    if ranks and not total:
        raise ValueError(f"lowrank_linear: `ranks` belong to `down` and `up`; got {list(ranks)} without factors")
    if any(rank < 1 for rank in ranks):
        raise ValueError(f"lowrank_linear: `ranks` must be 1 or more each; got {list(ranks)}")
    if sum(ranks) != total:
        raise ValueError(
            f"lowrank_linear: `ranks` must add up to R = {total}, the rows of down; got {list(ranks)}, "
            f"sum {sum(ranks)}"
        )
    return tuple(ranks)


def check_gate(gate: Tensor, x: Tensor, samples: int, concepts: int) -> None:
    """Shape, dtype and device of the gate. Two axes mean rows where x has no batch, else samples."""
    _check_type("gate", gate, "a tensor or None")
    if not concepts:
        raise ValueError("lowrank_linear: `gate` belongs to `down` and `up`; got one without factors")
    expected = torch.float64 if x.dtype == torch.float64 else torch.float32
    if gate.dtype != expected:
        raise TypeError(
            f"lowrank_linear: `gate` must be {_name(expected)} for {_name(x.dtype)} x; got {_name(gate.dtype)}; "
            f"convert it with .to(torch.{_name(expected)})"
        )
    rows = x.shape[-2]
    if gate.shape[-1:] != (concepts,) or not _gate_fits(gate, x, samples, rows):
        # spelt out here alone: a text made of sizes would fix them in a compiled graph
        two = f"[rows, K] = [{rows}, {concepts}]" if x.ndim == 2 else f"[B, K] = [{samples}, {concepts}]"
        raise ValueError(
            f"lowrank_linear: `gate` must be [K] = [{concepts}], {two} or [B or 1, rows or 1, K] = "
            f"[{samples} or 1, {rows} or 1, {concepts}]; got {list(gate.shape)}"
            + ("; one for all samples is gate[None]" if gate.ndim == 2 and x.ndim > 2 else "")
        )
    _check_device("gate", gate, x)


def _gate_fits(gate: Tensor, x: Tensor, samples: int, rows: int) -> bool:
    """Whether all axes but the last are those of the rows, or of length one."""
    if gate.ndim == 2:
        return _is_one_or(rows if x.ndim == 2 else samples, gate.shape[0])
    if gate.ndim == 3:
        return _is_one_or(samples, gate.shape[0]) and _is_one_or(rows, gate.shape[1])
    return gate.ndim == 1


def check_base(base: Tensor, x: Tensor) -> int:
    """Type, axes and dtype of the layer's output; gives Cout. Its other sizes are ``check_addend``'s."""
    _check_type("base", base, "a tensor or None")
    if base.ndim < 2:
        raise ValueError(
            f"lowrank_linear: `base` must be [..., rows, Cout] or an image [B, Cout, h, w]; got {list(base.shape)}"
        )
    image = is_image(base, x)
    return int(base.shape[1] if image else base.shape[-1])


def check_grid(grid: Any, x: Tensor) -> Size | None:
    """(h, w) of the image that the rows of [B, rows, Cin] are."""
    if grid is None:
        return None
    integers = isinstance(grid, (tuple, list, torch.Size)) and all(
        isinstance(n, int) and not isinstance(n, bool) for n in grid
    )
    if not integers or len(grid) != 2:
        raise TypeError(f"lowrank_linear: `grid` must be two integers (h, w) or None; got {grid!r}")
    if grid[0] < 0 or grid[1] < 0:
        raise ValueError(f"lowrank_linear: `grid` must be (h, w), neither negative; got {tuple(grid)}")
    _check_rows_of_image("grid", tuple(grid), x)
    return int(grid[0]), int(grid[1])


def check_addend(name: str, addend: Tensor, x: Tensor, width: int) -> None:
    """Shape, dtype and device of ``residual`` or ``base``: the shape of the result, rows or image."""
    _check_type(name, addend, "a tensor or None")
    _check_dtype(name, addend, x)
    rows = (*x.shape[:-1], width)
    if is_image(addend, x):
        if addend.shape[:2] != (x.shape[0], width):
            raise ValueError(
                f"lowrank_linear: `{name}` must be [B, Cout, h, w] = [{x.shape[0]}, {width}, h, w]; "
                f"got {list(addend.shape)}"
            )
        _check_rows_of_image(name, tuple(addend.shape[2:]), x)
    elif addend.shape != rows:
        image = f" or [B, Cout, h, w] with h * w = {x.shape[1]}" if x.ndim == 3 else ""
        raise ValueError(f"lowrank_linear: `{name}` must be {list(rows)}{image}; got {list(addend.shape)}")
    _check_device(name, addend, x)


def check_one_grid(grids: dict[str, Size | None]) -> Size | None:
    """The grid that all of ``grids`` agree on; None stands for rows, which agree with rows alone."""
    found = set(grids.values())
    if len(found) > 1:
        listed = ", ".join(
            f"{name} {'rows' if grid is None else f'{grid[0]} x {grid[1]}'}" for name, grid in grids.items()
        )
        raise ValueError(f"lowrank_linear: needs one form of the result, rows or one grid; got {listed}")
    return found.pop() if found else None


def is_image(addend: Tensor, x: Tensor) -> bool:
    """Whether ``addend`` is [B, Cout, h, w] beside x [B, rows, Cin]."""
    return addend.ndim == 4 and x.ndim == 3


def _check_rows_of_image(name: str, grid: tuple[int, ...], x: Tensor) -> None:
    if x.ndim != 3:
        raise ValueError(f"lowrank_linear: an image needs x of [B, rows, Cin]; got {list(x.shape)}")
    if grid[0] * grid[1] != x.shape[1]:
        raise ValueError(
            f"lowrank_linear: `{name}` must have h * w = {x.shape[1]}, the rows of x; got {grid[0]} x {grid[1]}"
        )


def _is_one_or(length: int, found: int) -> bool:
    # not `in (1, length)`, which the compiler does not follow where sizes are symbols
    return found == 1 or found == length


def _check_type(name: str, x: Any, what: str) -> None:
    check_tensor("lowrank_linear", name, x, what)


def _check_dtype(name: str, x: Tensor, like: Tensor) -> None:
    if x.dtype != like.dtype:
        raise TypeError(
            f"lowrank_linear: `{name}` must have the dtype of x, {_name(like.dtype)}; got {_name(x.dtype)}; "
            f"convert it with .to(x.dtype)"
        )


def _check_matrix(name: str, x: Tensor, axes: str) -> None:
    if x.ndim == 2 or (x.ndim == 4 and x.shape[2:] == (1, 1)):
        return
    raise ValueError(
        f"lowrank_linear: `{name}` must be [{axes}], or [{axes}, 1, 1] of a 1x1 convolution; got {list(x.shape)}"
    )


def _check_device(name: str, x: Tensor, like: Tensor) -> None:
    if x.device != like.device:
        raise ValueError(f"lowrank_linear: `{name}` must be on the device of x, {like.device}; got {x.device}")
