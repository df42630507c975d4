"""Rates with their uncertainty, and differences image by image, as numbers and as cells of a table."""

from __future__ import annotations

import math

import numpy as np

Z = 1.96  # of a 95 % interval


def difference(ours: list[bool] | list[float], base: list[bool] | list[float]) -> dict[str, float]:
    """Mean difference of pairs with its 95 % interval, over as many pairs as both have."""
    pairs = min(len(ours), len(base))
    values = np.asarray(ours[:pairs], dtype=float) - np.asarray(base[:pairs], dtype=float)
    half = Z * float(values.std(ddof=1)) / math.sqrt(pairs) if pairs > 1 else math.inf
    mean = float(values.mean())
    return {"pairs": pairs, "mean": mean, "low": mean - half, "high": mean + half}


def rate_cell(rate: dict[str, float], factor: float = 100) -> str:
    """A share with its interval, in percent unless ``factor`` says otherwise."""
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(factor * rate[key] for key in ("value", "low", "high")))


def difference_cell(values: dict[str, float] | None, factor: float = 100) -> str:
    """A difference with its interval, in points unless ``factor`` says otherwise; nothing for None."""
    if values is None:
        return ""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(factor * values[key] for key in ("mean", "low", "high")))
