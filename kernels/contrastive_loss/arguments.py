"""The arguments of ``contrastive_loss``: rows, and a record for each of its segments, which every backend takes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Segment(NamedTuple):
    """Some columns, and what their pairs with the R rows are.

    Attributes:
        columns: C, [K, D], dtype of the rows.
        temperature: T, 0-dim, fp32 (fp64 for fp64 rows), above 0.
        row_ids, column_ids: int64 [3, R] and [3, K]. A pair of equal ids in the first line is positive, in the second
            it is left out, in the third it is left out unless it is positive.
        excludes, has_classes: Whether the second line counts, and the third.
        symmetric: Whether the columns are rows, too, for which the rows are columns.
        weight: Of this segment's loss in the sum.
    """

    columns: Tensor
    temperature: Tensor
    row_ids: Tensor
    column_ids: Tensor
    excludes: bool = False
    has_classes: bool = False
    symmetric: bool = False
    weight: float = 1.0

    @property
    def counted(self) -> int:
        """Of how many lines there are statistics: the rows, and the columns where they are rows, too."""
        return self.row_ids.shape[1] + (self.column_ids.shape[1] if self.symmetric else 0)
