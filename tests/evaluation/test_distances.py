"""Distances between sets of features, against what is known of them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from weft.evaluation import cmmd, fid, kid, mmd


def gaussian(count: int, features: int, seed: int) -> Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(mean: Tensor, variance: Tensor, count: int, seed: int) -> Tensor:
    """A sample whose mean and unbiased covariance are exactly diagonal and as given."""
    x = gaussian(count, len(mean), seed)
    x = x - x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(x.T))
    white = x @ vectors / values.sqrt()
    return white * variance.sqrt() + mean


def test_frechet_of_a_set_with_itself_is_zero() -> None:
    x = gaussian(300, 16, 0)
    assert abs(fid(x, x)) < 1e-6


def test_frechet_of_diagonal_gaussians() -> None:
    generator = torch.Generator().manual_seed(5)
    (m1, m2), (v1, v2) = (torch.rand(2, 2, 12, generator=generator, dtype=torch.float64) + 0.1).unbind()
    one, other = with_moments(m1, v1, 200, 1), with_moments(m2, v2, 200, 2)
    want = (m1 - m2).square().sum() + (v1.sqrt() - v2.sqrt()).square().sum()
    assert fid(one, other) == pytest.approx(float(want), rel=1e-7)
    assert fid(other, one) == pytest.approx(fid(one, other), rel=1e-9)


def test_frechet_of_a_shift_is_its_square() -> None:
    shift = torch.linspace(-1, 1, 10, dtype=torch.float64)
    one = gaussian(20_000, 10, 3)
    assert fid(one, gaussian(20_000, 10, 4) + shift) == pytest.approx(float(shift.square().sum()), rel=0.02)


@pytest.mark.parametrize("distance", ["fid", "kid", "cmmd"])
def test_rotating_both_sets_changes_nothing(distance: str) -> None:
    one, other = gaussian(120, 8, 6), gaussian(120, 8, 7) * 1.5 + 0.3
    turn, _ = torch.linalg.qr(gaussian(8, 8, 8))
    measures = {"fid": fid, "kid": lambda x, y: kid(x, y, subset_size=40, subsets=5)["value"], "cmmd": cmmd}
    measure = measures[distance]
    assert measure(one @ turn, other @ turn) == pytest.approx(measure(one, other), rel=1e-6)
    # rotating one of them alone is another distribution
    assert measure(one, (other + 1) @ turn) != pytest.approx(measure(one, other + 1), rel=1e-3)


@pytest.mark.parametrize(("real", "drawn"), [(8, 300), (300, 8)])
def test_frechet_needs_more_images_than_features(real: int, drawn: int) -> None:
    with pytest.raises(ValueError, match="8 features need more than 8 images on each side; got 8"):
        fid(gaussian(real, 8, 0), gaussian(drawn, 8, 1))


def test_unbiased_mmd_of_equal_distributions_has_mean_zero() -> None:
    found = torch.tensor([mmd(gaussian(40, 4, 2 * i), gaussian(40, 4, 2 * i + 1), sigma=2.0) for i in range(200)])
    assert found.min() < 0 < found.max()
    assert abs(found.mean()) < 3 * found.std() / len(found) ** 0.5


def test_biased_mmd_is_never_negative() -> None:
    x = gaussian(50, 4, 0)
    assert mmd(x, x, sigma=2.0, unbiased=False) == 0
    found = [mmd(gaussian(20, 4, 2 * i), gaussian(30, 4, 2 * i + 1), sigma=2.0, unbiased=False) for i in range(50)]
    assert min(found) > 1e-3


def test_mmd_is_that_of_its_definition() -> None:
    x, y = gaussian(7, 3, 0), gaussian(9, 3, 1) + 0.5

    def mean(a: Tensor, b: Tensor, same: bool) -> float:
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (same and i == j)]
        return sum(float(torch.exp(-(a[i] - b[j]).square().sum() / (2 * 1.5**2))) for i, j in pairs) / len(pairs)

    want = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert mmd(x, y, sigma=1.5) == pytest.approx(want, rel=1e-9)


def test_mmd_in_blocks_is_mmd(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = gaussian(31, 5, 0), gaussian(17, 5, 1)
    whole = mmd(x, y, sigma=3.0)
    monkeypatch.setattr("weft.evaluation.distances._BLOCK", 4)
    assert mmd(x, y, sigma=3.0) == pytest.approx(whole, rel=1e-12)


def test_cmmd_looks_at_directions() -> None:
    x, y = gaussian(60, 6, 0), gaussian(60, 6, 1) + 1
    assert cmmd(3 * x, 0.2 * y) == pytest.approx(cmmd(x, y), rel=1e-9)


def test_kid_depends_on_its_own_seed_alone() -> None:
    x, y = gaussian(80, 6, 0), gaussian(80, 6, 1) + 0.5
    first = kid(x, y, subset_size=20, subsets=4, seed=3)
    torch.manual_seed(999)
    before = torch.random.get_rng_state()
    assert kid(x, y, subset_size=20, subsets=4, seed=3) == first
    assert torch.equal(before, torch.random.get_rng_state())
    assert kid(x, y, subset_size=20, subsets=4, seed=4)["value"] != pytest.approx(first["value"], rel=1e-3)


def test_messages() -> None:
    x = gaussian(20, 4, 0)
    with pytest.raises(ValueError, match=r"must be in 2\.\.20"):
        kid(x, x, subset_size=21)
    with pytest.raises(ValueError, match=r"must be \[N, D\] and \[M, D\]; got \(20, 4\) and \(20, 3\)"):
        fid(x, x[:, :3])
    with pytest.raises(ValueError, match="`sigma` must be above 0; got 0"):
        mmd(x, x, sigma=0)
    with pytest.raises(ValueError, match="two images on each side"):
        mmd(x[:1], x, sigma=1)


def test_without_torchmetrics_only_its_distances_are_missing() -> None:
    code = """
        import sys
        sys.modules["torchmetrics"] = None
        import torch
        import weft.evaluation as evaluation
        for name in evaluation.__all__:
            getattr(evaluation, name)
        x = torch.randn(30, 4)
        evaluation.cmmd(x, x)
        try:
            evaluation.fid(x, x)
        except ImportError as error:
            print(error)
    """
    lines = "\n".join(line[8:] for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fid: needs torchmetrics: pip install torchmetrics")
