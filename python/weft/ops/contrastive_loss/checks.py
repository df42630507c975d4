"""What ``contrastive_loss`` asks of its arguments: one message for each way they can be wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from weft.ops._tensors import FLOAT_DTYPES, INTEGER_DTYPES, check_tensor
from weft.ops._tensors import dtype_name as _name
from weft.ops.contrastive_loss.columns import Columns, Ids


def check_rows(rows: Tensor) -> None:
    """Type, axes and dtype of the rows; at least one."""
    check_tensor("contrastive_loss", "rows", rows)
    if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] < 1:
        raise ValueError(f"contrastive_loss: `rows` must be [R, D], at least one row; got {list(rows.shape)}")
    if rows.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"contrastive_loss: `rows` must be float32, bfloat16, float16 or float64; got {_name(rows.dtype)}"
        )


def check_segments(cols: Tensor | Sequence[Columns], options: dict[str, Any]) -> list[Columns]:
    """The segments that ``cols`` and the ``options`` of a single one stand for."""
    if isinstance(cols, Tensor):
        return [Columns(cols, **options)]
    if isinstance(cols, Columns):
        cols = [cols]
    if not isinstance(cols, Sequence) or isinstance(cols, str):
        raise TypeError(
            f"contrastive_loss: `cols` must be a tensor or a sequence of weft.ops.Columns; got {type(cols).__name__}"
        )
    if not cols:
        raise ValueError("contrastive_loss: `cols` must have at least one segment; got an empty sequence")
    for segment in cols:
        if not isinstance(segment, Columns):
            raise TypeError(f"contrastive_loss: `cols` must hold weft.ops.Columns; got {type(segment).__name__}")
    plain = Columns(cols[0].values)
    for name, value in options.items():
        # a tensor is never the default, and compares by value
        if isinstance(value, (Tensor, tuple)) or value != getattr(plain, name):
            raise ValueError(
                f"contrastive_loss: `{name}` of several segments must be given in each of them; got it beside a "
                f"sequence; move it into weft.ops.Columns"
            )
    return list(cols)


def check_segment(segment: Columns, rows: Tensor) -> None:
    """Everything about one segment."""
    values = segment.values
    check_tensor("contrastive_loss", "cols", values)
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] != rows.shape[1]:
        raise ValueError(
            f"contrastive_loss: `cols` must be [K, D] = [K, {rows.shape[1]}] to match rows, at least one column; "
            f"got {list(values.shape)}"
        )
    if values.dtype != rows.dtype:
        raise TypeError(
            f"contrastive_loss: `cols` must have the dtype of rows, {_name(rows.dtype)}; got {_name(values.dtype)}; "
            f"convert it with .to(rows.dtype)"
        )
    _check_device("cols", values, rows)
    _check_pairs("positives", segment.positives, "diagonal", segment, rows)
    _check_pairs("exclude", segment.exclude, "self", segment, rows)
    _check_pairs("classes", segment.classes, None, segment, rows)
    _check_temperature(segment.temperature, rows)
    if not isinstance(segment.symmetric, bool):
        raise TypeError(f"contrastive_loss: `symmetric` must be True or False; got {segment.symmetric!r}")
    if not isinstance(segment.weight, (int, float)) or isinstance(segment.weight, bool):
        raise TypeError(f"contrastive_loss: `weight` must be a number; got {type(segment.weight).__name__}")
    if not math.isfinite(segment.weight):
        raise ValueError(f"contrastive_loss: `weight` must be finite; got {segment.weight}")


def _check_pairs(name: str, given: Ids | str | None, word: str | None, segment: Columns, rows: Tensor) -> None:
    """One relation of pairs: its word, or integer ids of the right lengths."""
    sizes = (rows.shape[0], segment.values.shape[0])
    if given is None and name != "positives":
        return
    if isinstance(given, str):
        if given != word:
            known = f'"{word}" or ids' if word else "ids or None"
            raise ValueError(f"contrastive_loss: `{name}` must be {known}; got {given!r}")
        if sizes[0] > sizes[1]:
            raise ValueError(
                f'contrastive_loss: `{name}` = "{word}" needs a column for each row, K >= R = {sizes[0]}; '
                f"got K = {sizes[1]}; give ids"
            )
        return
    pair = given if isinstance(given, tuple) else (given, given)
    if len(pair) != 2 or not all(isinstance(ids, Tensor) for ids in pair):
        found = ", ".join(type(ids).__name__ for ids in pair)
        allowed = f'"{word}", ' if word else ""
        raise TypeError(
            f"contrastive_loss: `{name}` must be {allowed}a tensor of ids or two of them, of rows and of columns; "
            f"got {found}"
        )
    for ids, axis, length in zip(pair, ("R", "K"), sizes, strict=True):
        assert isinstance(ids, Tensor)
        check_tensor("contrastive_loss", name, ids)
        if ids.dtype not in INTEGER_DTYPES:
            hint = "; a mask of pairs is no ids: number the groups" if ids.dtype == torch.bool else ""
            raise TypeError(f"contrastive_loss: `{name}` must be integer ids; got {_name(ids.dtype)}{hint}")
        if ids.shape != (length,):
            raise ValueError(
                f"contrastive_loss: `{name}` must be [{axis}] = [{length}]; got {list(ids.shape)}"
                + ("; one tensor serves rows and columns only where these are as many" if given is ids else "")
            )
        _check_device(name, ids, rows)


def _check_temperature(temperature: Any, rows: Tensor) -> None:
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1 or not temperature.is_floating_point():
            raise ValueError(
                f"contrastive_loss: `temperature` must be one floating-point number; got "
                f"{_name(temperature.dtype)} {list(temperature.shape)}"
            )
        _check_device("temperature", temperature, rows)
        return
    if not isinstance(temperature, (int, float)) or isinstance(temperature, bool):
        raise TypeError(
            f"contrastive_loss: `temperature` must be a number or a tensor; got {type(temperature).__name__}"
        )
    if not 0 < temperature < math.inf:
        raise ValueError(f"contrastive_loss: `temperature` must be above 0 and finite; got {temperature}")


def _check_device(name: str, x: Tensor, like: Tensor) -> None:
    if x.device != like.device:
        raise ValueError(f"contrastive_loss: `{name}` must be on the device of rows, {like.device}; got {x.device}")
