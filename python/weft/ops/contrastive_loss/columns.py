"""``Columns``, a segment of columns as callers say it, and the ids that say what a pair of a row and a column is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weft.kernels.contrastive_loss.arguments import Segment

# of rows and of columns; one tensor serves both where row i and column i are the same thing
Ids = Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of one kind, for a loss that finds positives among several kinds: each has a denominator of its own.

    Attributes:
        values: [K, D], dtype of the rows. Detached columns cost no gradient.
        positives: Which pairs are positive: "diagonal", row i and column i; or ids, equal where a pair is positive:
            one integer tensor for rows and columns alike, or one for each, [R] and [K].
        exclude: Pairs that are left out, positive or not: "self", row i and column i; or ids, equal where they are.
        classes: Ids, equal where a pair is left out unless it is positive: a negative that is none.
        temperature: T, above 0; a tensor may have a gradient.
        symmetric: Whether to average with the same loss of columns against rows.
        weight: Of this loss in the sum.
    """

    values: Tensor
    positives: Ids | str = "diagonal"
    exclude: Ids | str | None = None
    classes: Ids | None = None
    temperature: float | Tensor = 1.0
    symmetric: bool = False
    weight: float = 1.0


def ids_of(
    given: Ids | str | None, rows: int, columns: int, first: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Ids of rows and columns, int64 [R] and [K].

    Args:
        given: As in ``Columns``; a word stands for counting through, None for nothing.
        rows, columns: R and K.
        first: Where the counting starts.
        device: Of the result.
    """
    integers: dict[str, Any] = {"dtype": torch.int64, "device": device}
    if given is None:
        return torch.zeros(rows, **integers), torch.ones(columns, **integers)
    if isinstance(given, str):
        return torch.arange(first, first + rows, **integers), torch.arange(first, first + columns, **integers)
    of_rows, of_columns = given if isinstance(given, tuple) else (given, given)
    return of_rows.to(torch.int64), of_columns.to(torch.int64)


def as_segment(columns: Columns, rows: Tensor) -> Segment:
    """``columns`` as backends take them."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    if isinstance(columns.temperature, Tensor):
        temperature = columns.temperature.to(wide).reshape(())
    else:
        temperature = torch.full((), columns.temperature, dtype=wide, device=rows.device)
    sizes = (rows.shape[0], columns.values.shape[0], 0, rows.device)
    relations = (columns.positives, columns.exclude, columns.classes)
    of_rows, of_columns = zip(*(ids_of(given, *sizes) for given in relations), strict=True)
    return Segment(
        columns.values,
        temperature,
        torch.stack(of_rows),
        torch.stack(of_columns),
        excludes=columns.exclude is not None,
        has_classes=columns.classes is not None,
        symmetric=columns.symmetric,
        weight=float(columns.weight),
    )
