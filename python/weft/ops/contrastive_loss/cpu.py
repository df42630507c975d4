"""The CPU backend of ``contrastive_loss``: BLAS products tile by tile, each tile used while a cache still holds it.

Memory beyond inputs and results is two tiles and a few numbers a row. Everything is computed in fp32, or fp64 for fp64
input; 16-bit features are widened a tile at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.kernels.contrastive_loss.arguments import Segment
from weft.kernels.contrastive_loss.reference import (
    CLASS,
    COUNT,
    EXCLUDED,
    MAX,
    POSITIVE,
    SUM,
    TOTAL,
    directions_of,
    pair_weights,
)
from weft.kernels.contrastive_loss.reference_bwd import Wanted

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# rows and columns of a tile
TILE = 512
# exponents up to this, of which a million add up, need no maximum subtracted: exp stays a normal fp32 number
MOST_EXPONENT = 60.0

Range = tuple[int, int]


def refuse(rows: Tensor) -> list[str]:
    """Why this backend cannot take a call; empty if it can."""
    return [] if rows.device.type == "cpu" else [f"needs CPU tensors; rows is on {rows.device}"]


def contrastive_loss_fwd_cpu(rows: Tensor, segments: list[Segment]) -> list[Tensor]:
    """Statistics of each segment, as ``segment_statistics`` gives them."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    tiled = [_Tiled.of(rows, segment) for segment in segments]
    statistics = [torch.zeros(4, segment.counted, dtype=wide) for segment in segments]
    for segment, found in zip(tiled, statistics, strict=True):
        if not segment.bounded:
            # finite, so that it can be subtracted from itself
            found[MAX] = torch.finfo(wide).min
    for i in _tiles(rows.shape[0]):
        for segment, found in zip(tiled, statistics, strict=True):
            a = segment.scaled_rows(rows, i)
            for k in _tiles(segment.columns.shape[0]):
                segment.add_tile(found, a, i, k)
    for found in statistics:
        found[MAX].masked_fill_(found[COUNT] == 0, torch.inf)
        found[SUM].masked_fill_(found[COUNT] == 0, 1)
    return statistics


def contrastive_loss_bwd_cpu(
    dloss: Tensor, rows: Tensor, segments: list[Segment], statistics: list[Tensor], wanted: Wanted
) -> tuple[Tensor, list[Tensor], Tensor]:
    """The gradients of ``contrastive_loss_backward_reference``, which says what the arguments are."""
    wide = statistics[0].dtype
    tiled = [_Tiled.of(rows, segment) for segment in segments]
    weights = [_Weights.of(segment, found) for segment, found in zip(segments, statistics, strict=True)]
    needs_rows = wanted.rows or wanted.temperature
    drows = torch.empty(rows.shape, dtype=rows.dtype) if wanted.rows else rows.new_empty(0)
    dcolumns = [
        torch.zeros(segment.columns.shape, dtype=wide) if wants else rows.new_empty(0)
        for segment, wants in zip(segments, wanted.columns, strict=True)
    ]
    dtemperature = torch.zeros(len(segments), dtype=torch.float64)
    for i in _tiles(rows.shape[0]):
        plain = rows[slice(*i)].to(wide)
        da = torch.zeros_like(plain)
        for s, (segment, dc) in enumerate(zip(tiled, dcolumns, strict=True)):
            a = segment.scaled_rows(rows, i)
            through = torch.zeros_like(plain)
            for k in _tiles(segment.columns.shape[0]):
                c = segment.columns[slice(*k)].to(wide)
                g = segment.gradient_tile(weights[s], a, c, i, k)
                if needs_rows:
                    through.addmm_(g, c)
                if wanted.columns[s]:
                    # the temperature is in a already
                    dc[slice(*k)].addmm_(g.T, a)
            # a row times its gradient is the sum over its pairs of G * s
            dtemperature[s] -= (through * a).sum(dtype=torch.float64)
            da.add_(through.mul_(segment.inverse_temperature))
        if wanted.rows:
            drows[slice(*i)] = da.mul_(dloss)
    for s, segment in enumerate(tiled):
        dtemperature[s] *= segment.inverse_temperature
    dt = (dtemperature * dloss).to(wide) if wanted.temperature else rows.new_empty(0, dtype=wide)
    return drows, [dc.mul_(dloss).to(rows.dtype) for dc in dcolumns], dt


def _tiles(length: int) -> Iterator[Range]:
    for start in range(0, length, TILE):
        yield start, min(start + TILE, length)


@dataclass(frozen=True, eq=False)
class _Weights:
    """What exponentials and positives weigh, by row and, where the columns are rows too, by column.

    Attributes:
        shares, each: As ``pair_weights`` gives them.
        largest: MAX of rows, and of columns.
    """

    shares: list[Tensor]
    each: list[Tensor]
    largest: list[Tensor]

    @classmethod
    def of(cls, segment: Segment, statistics: Tensor) -> _Weights:
        largest = [found[MAX] for found in directions_of(segment, statistics)]
        return cls(*pair_weights(segment, statistics), largest)


class _Tiled:
    """One segment, tile by tile.

    Attributes:
        bounded: Whether all logits are known to be so small that exponentials need no maximum: one then serves rows
            and columns. That is so for normalised features from a temperature of 1/60 on.
    """

    def __init__(self, segment: Segment, bounded: bool, buffer: Tensor) -> None:
        self.columns = segment.columns
        self.symmetric = segment.symmetric
        self.rows = segment.row_ids.shape[1]
        self.inverse_temperature = 1.0 / float(segment.temperature)
        self.bounded = bounded
        self.buffer = buffer
        self.positive = _Relation.of(segment, POSITIVE)
        self.excluded = _Relation.of(segment, EXCLUDED) if segment.excludes else None
        self.classes = _Relation.of(segment, CLASS) if segment.has_classes else None

    @classmethod
    def of(cls, rows: Tensor, segment: Segment) -> _Tiled:
        wide = torch.promote_types(rows.dtype, torch.float32)
        longest = [x.to(wide).norm(dim=1).max().item() if len(x) else 0.0 for x in (rows, segment.columns)]
        bounded = longest[0] * longest[1] <= MOST_EXPONENT * float(segment.temperature)
        return cls(segment, bounded, torch.empty(TILE * TILE, dtype=wide))

    def scaled_rows(self, rows: Tensor, i: Range) -> Tensor:
        """Rows over the temperature, so that products with columns are logits."""
        return rows[slice(*i)].to(self.buffer.dtype) * self.inverse_temperature

    def add_tile(self, statistics: Tensor, a: Tensor, i: Range, k: Range) -> None:
        """Add what the pairs of one tile contribute to the statistics of its rows and columns."""
        s = self._logits(a, self.columns[slice(*k)].to(a.dtype))
        positive, hidden = self._pairs(i, k)
        rows, columns = statistics[:, slice(*i)], statistics[:, self.rows + k[0] : self.rows + k[1]]
        directions = [(rows, 1), (columns, 0)] if self.symmetric else [(rows, 1)]
        if positive is not None:
            of_positives = s.masked_fill(~positive, 0)
            for found, axis in directions:
                found[COUNT] += positive.sum(axis)
                found[TOTAL] += of_positives.sum(axis)
        if hidden is not None:
            s.masked_fill_(hidden, -torch.inf)
        if self.bounded:
            s.exp_()
        for found, axis in directions:
            if self.bounded:
                found[SUM] += s.sum(axis)
            else:
                largest = torch.maximum(found[MAX], s.amax(axis))
                found[SUM] *= (found[MAX] - largest).exp_()
                found[SUM] += (s - largest.unsqueeze(axis)).exp_().sum(axis)
                found[MAX] = largest

    def gradient_tile(self, weights: _Weights, a: Tensor, c: Tensor, i: Range, k: Range) -> Tensor:
        """G of one tile, without what arrives from behind; valid until the next."""
        s = self._logits(a, c)
        positive, hidden = self._pairs(i, k)
        if hidden is not None:
            s.masked_fill_(hidden, -torch.inf)
        ranges = (slice(*i), slice(*k))
        by_line = [[x[part] for x, part in zip(of, ranges, strict=False)] for of in (weights.shares, weights.each)]
        largest = [x[part] for x, part in zip(weights.largest, ranges, strict=False)]
        g = self._weighted_exponentials(s, by_line[0], largest)
        if positive is not None:
            g -= _outer_sum(by_line[1]).masked_fill(~positive, 0)
        return g

    def _weighted_exponentials(self, s: Tensor, shares: list[Tensor], largest: list[Tensor]) -> Tensor:
        if self.bounded:
            # MAX is 0, or +inf where a line does not count and its share is 0
            return s.exp_().mul_(_outer_sum(shares))
        of_columns = (s - largest[1]).exp_().mul_(shares[1]) if self.symmetric else None
        of_rows = s.sub_(largest[0][:, None]).exp_().mul_(shares[0][:, None])
        return of_rows if of_columns is None else of_rows.add_(of_columns)

    def _logits(self, a: Tensor, c: Tensor) -> Tensor:
        out = self.buffer[: len(a) * len(c)].view(len(a), len(c))
        return torch.mm(a, c.T, out=out)

    def _pairs(self, i: Range, k: Range) -> tuple[Tensor | None, Tensor | None]:
        """Positive pairs of a tile, and those that are left out; None for none."""
        positive = self.positive.tile(i, k)
        hidden = None if self.excluded is None else self.excluded.tile(i, k)
        if positive is not None and hidden is not None:
            positive &= ~hidden
        same = None if self.classes is None else self.classes.tile(i, k)
        if same is not None:
            same = same if positive is None else same & ~positive
            hidden = same if hidden is None else hidden | same
        return positive, hidden


class _Relation:
    """Which pairs have equal ids. Tiles whose ranges of ids do not meet, as most of a diagonal, are not compared."""

    def __init__(self, of_rows: Tensor, of_columns: Tensor) -> None:
        self.of_rows, self.of_columns = of_rows, of_columns
        self.row_ranges, self.column_ranges = (
            {tile: _range(ids[slice(*tile)]) for tile in _tiles(len(ids))} for ids in (of_rows, of_columns)
        )

    @classmethod
    def of(cls, segment: Segment, line: int) -> _Relation:
        return cls(segment.row_ids[line], segment.column_ids[line])

    def tile(self, i: Range, k: Range) -> Tensor | None:
        """bool [rows, columns], or None where no pair is equal."""
        (low, high), (other_low, other_high) = self.row_ranges[i], self.column_ranges[k]
        if high < other_low or other_high < low:
            return None
        return self.of_rows[slice(*i), None] == self.of_columns[slice(*k)]


def _range(ids: Tensor) -> Range:
    low, high = ids.aminmax()
    return int(low), int(high)


def _outer_sum(by_line: list[Tensor]) -> Tensor:
    """x_i + y_k of two lines, x_i of one."""
    first = by_line[0][:, None]
    return first + by_line[1] if len(by_line) > 1 else first
