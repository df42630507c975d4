"""What was read in the pictures of every variant, as shares and means with their uncertainty, and cells of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from benchmarks.efficacy.rates import Z, difference, difference_cell, rate_cell
from weft.shapes.measuring import Rate

Readings = dict[str, list[Any]]  # measure -> one value a picture; None where it does not apply


@dataclass(frozen=True)
class Measures:
    """What is read, and what it is compared with.

    Attributes:
        shares: Yes or no of a picture -> heading of its column.
        levels: A number of a picture -> heading of its column.
        reference: The variant that differences are taken from.
        without: Of a variant, the measures that mean nothing there.
        undiffering: Variants that are not compared, beside the reference.
    """

    shares: Mapping[str, str]
    levels: Mapping[str, str]
    reference: str
    without: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    undiffering: tuple[str, ...] = ()

    @property
    def headings(self) -> tuple[str, ...]:
        return (*self.shares.values(), *self.levels.values())

    def summarise(self, found: Mapping[str, Mapping[str, Readings]]) -> dict[str, Any]:
        """Per variant and trial every measure, and its difference from the reference variant, picture by picture."""
        results: dict[str, Any] = {}
        for variant, trials in found.items():
            for trial, measures in trials.items():
                row: dict[str, Any] = {"pictures": max(map(len, measures.values()))}
                for name, values in measures.items():
                    known = [value for value in values if value is not None]
                    if not known or name in self.without.get(variant, ()):
                        continue
                    row[name] = asdict(Rate.of(known)) if name in self.shares else _mean(known)
                    if variant not in (self.reference, *self.undiffering) and self.reference in found:
                        row[f"{name}_difference"] = _paired(values, found[self.reference][trial][name])
                results.setdefault(variant, {})[trial] = row
        return results

    def cells(self, row: Mapping[str, Any]) -> list[str]:
        """Of one variant and trial, by column: shares in percent, levels as they are; with intervals."""
        return [_cell(row, name, 100) for name in self.shares] + [_cell(row, name, 1) for name in self.levels]


def _mean(values: list[float]) -> dict[str, float]:
    """Mean and its 95 % interval."""
    half = Z * float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    mean = float(np.mean(values))
    return {"value": mean, "low": mean - half, "high": mean + half}


def _paired(ours: list[Any], reference: list[Any]) -> dict[str, float]:
    pairs = [(a, b) for a, b in zip(ours, reference, strict=False) if a is not None and b is not None]
    return difference([a for a, _ in pairs], [b for _, b in pairs])


def _cell(row: Mapping[str, Any], name: str, factor: float) -> str:
    if name not in row:
        return ""
    text = rate_cell(row[name], factor)
    return f"{text} ({difference_cell(row[f'{name}_difference'], factor)})" if f"{name}_difference" in row else text
