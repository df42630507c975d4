"""A mean over scenes, with an interval from drawing the scenes again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """``value``, the mean of ``scenes`` numbers, and the 95 % interval [low, high] of what it estimates."""

    value: float
    low: float
    high: float
    scenes: int


def interval(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Mean of one number a scene; percentile bootstrap.

    Args:
        values: One a scene: what comes from one scene is not independent and must be averaged before.
        seed: Of the resamples.
        resamples: How many.

    Raises:
        ValueError: Fewer than two numbers.
    """
    numbers = np.asarray(values, dtype=float)
    if len(numbers) < 2:
        raise ValueError(f"interval: needs at least two scenes; got {len(numbers)}")
    found = bootstrap(
        (numbers,),
        np.mean,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(numbers.mean()), float(found.low), float(found.high), len(numbers))
