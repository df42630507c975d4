"""Spread within groups, and intervals over scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weft.evaluation import interval, spread


def test_spread_is_the_mean_distance_of_pairs() -> None:
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    assert spread(corners) == pytest.approx((3 + 4 + 5) / 3)
    assert spread(corners[[0, 0, 0]]) == 0
    turn, _ = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)))
    assert spread(corners @ turn) == pytest.approx(4, rel=1e-5)


def test_spread_needs_two() -> None:
    with pytest.raises(ValueError, match=r"at least two images; got \(1, 2\)"):
        spread(torch.zeros(1, 2))


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    found = [interval(rng.exponential(1.0, 80), seed=i, resamples=400) for i in range(150)]
    covered = np.mean([one.low <= 1.0 <= one.high for one in found])
    assert 0.87 < covered < 0.99


def test_interval_of_shares() -> None:
    found = interval([True, False] * 200)
    assert (found.value, found.scenes) == (0.5, 400)
    # as a binomial: 1.96 * sqrt(0.25 / 400)
    assert found.high - found.low == pytest.approx(2 * 0.049, rel=0.1)
    assert interval([True] * 9) == type(found)(1.0, 1.0, 1.0, 9)
    assert interval([0, 1, 5], seed=1) == interval([0, 1, 5], seed=1)


def test_interval_needs_two() -> None:
    with pytest.raises(ValueError, match="at least two scenes; got 1"):
        interval([1.0])
