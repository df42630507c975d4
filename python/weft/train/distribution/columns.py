"""What a distribution loss compares: rows of all views, reals, and the ids that say what belongs together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

WHO = "distribution_loss"
INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
# of rows and of reals; one tensor serves both where they are as many
Ids = Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Compared:
    """Features of a batch.

    Attributes:
        rows: [V N, D], the views of generated pictures, one after the other.
        reals: [K, D] without gradient, of real ones; None where there are none.
        images: int64 [V N] and [K], equal where two show the same.
        classes: The same of what is no negative; None where nothing is known.
    """

    rows: Tensor
    reals: Tensor | None
    images: tuple[Tensor, Tensor]
    classes: tuple[Tensor, Tensor] | None


def compared(first: Any, second: Any, real: Any, *, images: Ids | None, classes: Ids | None, group: Any) -> Compared:
    """Check features and ids, and bring them together.

    Raises:
        TypeError, ValueError: As ``distribution_loss``.
    """
    views = [_features("first", first, first)]
    if second is not None:
        views.append(_features("second", second, first))
        if len(second) != len(first):
            raise ValueError(
                f"{WHO}: `second` must have a row for each row of `first`, {len(first)}; got {len(second)}; pass the "
                "two views of the same rows, in the same order"
            )
    reals = None if real is None else _features("real", real, first).detach()
    ranks = 1 if group is None else dist.get_world_size(group)
    if len(first) * ranks < 2:
        raise ValueError(
            f"{WHO}: `first` must have at least 2 rows, or there are no negatives; got {len(first)}; take a "
            "larger batch, or gather across ranks with `group`"
        )
    wide = first.dtype
    for x in (*views[1:], *([] if reals is None else [reals])):
        wide = torch.promote_types(wide, x.dtype)
    sizes, count = (len(first), 0 if reals is None else len(reals)), len(views)
    if images is None:
        if reals is not None and sizes[0] != sizes[1]:
            raise ValueError(
                f"{WHO}: `real` must have a row for each row of `first`, {sizes[0]}, or `images` must say which "
                f"belong together; got {sizes[1]} rows and no `images`"
            )
        numbered = torch.arange(sizes[0], device=first.device)
        # row i belongs to one rank only
        numbered = numbered + (0 if group is None else dist.get_rank(group) * sizes[0])
        images = numbered, numbered[: sizes[1]]
    return Compared(
        torch.cat(views).to(wide),
        None if reals is None else reals.to(wide),
        _ids("images", images, sizes, count, first.device),
        None if classes is None else _ids("classes", classes, sizes, count, first.device),
    )


def check_not_zero(found: Compared) -> None:
    """Refuse features of zero norm, which have no direction.

    Raises:
        ValueError: There are some.
    """
    if torch.compiler.is_compiling():  # what a tensor holds is not known then
        return
    for name, x in (("first` and `second", found.rows), ("real", found.reals)):
        if x is not None and (zeros := (x == 0).all(1)).any():
            raise ValueError(
                f"{WHO}: `{name}` must have no row of zero norm, which has no direction; got {int(zeros.sum())} of "
                f"{len(x)}, the first at {int(zeros.nonzero()[0])}; look at the source of features: a dead ReLU, or "
                "a picture that is all the same"
            )


def check_contrasts(
    name: str,
    rows: Sequence[Tensor],
    columns: Sequence[Tensor],
    *,
    exclude_self: bool,
    group: Any,
) -> None:
    """Refuse ids by which no row has both a positive and a negative.

    Args:
        name: Of the loss.
        rows, columns: Ids of images and, where they mask, of classes.
        exclude_self: Whether rows are the columns, each left out of its own.

    Raises:
        ValueError: No row of any rank has.
    """
    if torch.compiler.is_compiling():
        return
    of_rows, of_columns = (_of_all_ranks(torch.stack(list(ids), 1), group) for ids in (rows, columns))
    positives = _occurrences(of_rows[:, :1], of_columns[:, :1])
    # of one class, but not of one picture twice over
    masked = positives if len(rows) == 1 else positives + _occurrences(of_rows[:, 1:], of_columns[:, 1:])
    masked = masked if len(rows) == 1 else masked - _occurrences(of_rows, of_columns)
    if not ((positives > int(exclude_self)) & (masked < len(of_columns))).any():
        raise ValueError(
            f"{WHO}: `images` and `classes` must leave some row a positive and a negative; got ids by which `{name}` "
            "has nothing to compare; draw batches of several pictures and classes, or set class_mask=False"
        )


def _occurrences(rows: Tensor, columns: Tensor) -> Tensor:
    """How many columns have the ids of each row; of [R, n] and [K, n], without a matrix of pairs."""
    numbers = torch.unique(torch.cat([rows, columns]), dim=0, return_inverse=True)[1]
    of_rows, of_columns = numbers[: len(rows)], numbers[len(rows) :]
    return torch.bincount(of_columns, minlength=int(numbers.max()) + 1)[of_rows]


def _of_all_ranks(ids: Tensor, group: Any) -> Tensor:
    if group is None:
        return ids
    parts = [torch.empty_like(ids) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, ids.contiguous(), group)
    return torch.cat(parts)


def _features(name: str, x: Any, first: Any) -> Tensor:
    """``x``, where it is [N, D] as wide as ``first`` and beside it."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{WHO}: `{name}` must be a tensor of features [N, D]; got {type(x).__name__}")
    if x.ndim != 2 or x.shape[1] < 1:
        raise ValueError(
            f"{WHO}: `{name}` must be features [N, D], one row a picture; got {list(x.shape)}; pool or flatten what "
            "the source gives: x.flatten(1), or x.mean((2, 3))"
        )
    if not x.is_floating_point():
        raise TypeError(f"{WHO}: `{name}` must be of a float dtype; got {x.dtype}")
    if x.shape[1] != first.shape[1]:
        raise ValueError(
            f"{WHO}: `{name}` must be as wide as `first`, {first.shape[1]}; got {x.shape[1]}; take both from one "
            "source of features"
        )
    if x.device != first.device:
        raise ValueError(f"{WHO}: `{name}` must be on the device of `first`, {first.device}; got {x.device}")
    return x


def _ids(name: str, given: Any, sizes: tuple[int, int], views: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids of the rows of all views and of the reals, int64 [V N] and [K]."""
    pair = given if isinstance(given, tuple) else (given, given)
    if len(pair) != 2 or not all(isinstance(ids, Tensor) for ids in pair):
        found = ", ".join(type(ids).__name__ for ids in pair)
        raise TypeError(f"{WHO}: `{name}` must be a tensor of ids, or two, of rows and of reals; got {found}")
    for ids, whose, size in zip(pair, ("rows", "reals"), sizes, strict=True):
        if ids.dtype not in INTEGER_DTYPES:
            raise TypeError(f"{WHO}: `{name}` must be integer ids; got {ids.dtype}; number what is the same")
        # without reals their ids match none
        if ids.shape != (size,) and (size or whose == "rows"):
            raise ValueError(
                f"{WHO}: `{name}` must have an id for each of the {size} {whose}; got {list(ids.shape)}; of as many "
                "rows as reals one tensor serves both, else give two"
            )
    of_rows, of_reals = (ids.to(device=device, dtype=torch.int64) for ids in pair)
    return of_rows.repeat(views), of_reals
