"""Distances between two sets of images, by their features: FID and KID of torchmetrics, and MMD, Gaussian.

They compare sets of the same sizes under the same extractor; a number without both says nothing.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
KID_SUBSETS = 100
_BLOCK = 1024  # rows of a kernel matrix that are there at a time


def fid(real: Tensor, drawn: Tensor) -> float:
    """Fréchet distance between Gaussians of the same mean and covariance as the features.

    Args:
        real: [N, D] of the images drawn are compared with.
        drawn: [M, D].

    Raises:
        ValueError: Shapes that do not fit, or no more samples than features: their covariance would be singular.
        ImportError: torchmetrics is not installed.

    Source:
        Heusel et al. 2017, arXiv:1706.08500, equation 6; by torchmetrics, in float64.
    """
    _check(real, drawn, "fid")
    if (fewest := min(len(real), len(drawn))) <= real.shape[1]:
        raise ValueError(
            f"fid: {real.shape[1]} features need more than {real.shape[1]} images on each side; got {fewest}; "
            "evaluate more images, or leave fid out"
        )
    metric = image_metrics("fid").FrechetInceptionDistance(feature=_Given(real.shape[1]))
    metric.update(real.double(), real=True)
    metric.update(drawn.double(), real=False)
    return float(metric.compute())


def kid(real: Tensor, drawn: Tensor, *, subset_size: int, subsets: int = KID_SUBSETS, seed: int = 0) -> dict[str, Any]:
    """Kernel distance: unbiased MMD with a cubic kernel, mean and spread over random subsets; may be below 0.

    Args:
        real, drawn: [N, D] and [M, D].
        subset_size: Images of either side in one estimate.
        subsets: Estimates.
        seed: Of the subsets.

    Returns:
        ``value`` and ``std`` over subsets, and how they were found.

    Raises:
        ValueError: Shapes that do not fit, or fewer images than a subset has.
        ImportError: torchmetrics is not installed.

    Source:
        Binkowski et al. 2018, arXiv:1801.01401, equation 4; by torchmetrics, in float64.
    """
    _check(real, drawn, "kid")
    fewest = min(len(real), len(drawn))
    if not 2 <= subset_size <= fewest:
        raise ValueError(f"kid: `subset_size` must be in 2..{fewest}, the images on each side; got {subset_size}")
    kind = image_metrics("kid").KernelInceptionDistance
    with warnings.catch_warnings():
        # that it keeps all features, which are there anyway
        warnings.filterwarnings("ignore", message=".*save all extracted features", category=UserWarning)
        metric = kind(feature=_Given(real.shape[1]), subsets=subsets, subset_size=subset_size)
    metric.update(real.double(), real=True)
    metric.update(drawn.double(), real=False)
    # the metric draws its subsets from torch's own generator
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, std = metric.compute()
    return {
        "value": float(mean),
        "std": float(std),
        "subset_size": subset_size,
        "subsets": subsets,
        "subset_seed": seed,
    }


def cmmd(real: Tensor, drawn: Tensor, *, unbiased: bool = True) -> float:
    """``mmd`` of features of length 1, a thousandfold. Unbiased by default; the authors' code is biased.

    Source:
        Jayasumana et al. 2024, arXiv:2401.09603: sigma 10 on CLIP embeddings. Any extractor's are taken here.
    """
    unit = (F.normalize(x.double(), dim=1) for x in (real, drawn))
    return CMMD_SCALE * mmd(*unit, sigma=CMMD_SIGMA, unbiased=unbiased)


def mmd(real: Tensor, drawn: Tensor, *, sigma: float, unbiased: bool = True) -> float:
    """Squared maximum mean discrepancy under the kernel exp(-|x - y|^2 / (2 sigma^2)).

    Args:
        real, drawn: [N, D] and [M, D], any float dtype; computed in float64, a block of rows at a time.
        sigma: Width of the kernel, in units of the features.
        unbiased: Leave pairs of a sample with itself out: mean 0 for equal distributions, and so at times below 0.

    Raises:
        ValueError: Shapes that do not fit, a width that is not above 0, or a single image where two are needed.

    Source:
        Gretton et al. 2012, "A kernel two-sample test", equations 3 (unbiased) and 5 (biased).
    """
    _check(real, drawn, "mmd")
    if not sigma > 0:
        raise ValueError(f"mmd: `sigma` must be above 0; got {sigma}")
    if unbiased and min(len(real), len(drawn)) < 2:
        raise ValueError(f"mmd: needs two images on each side; got {len(real)} and {len(drawn)}")
    x, y = real.double(), drawn.double()

    def mean(a: Tensor, b: Tensor, own: int) -> float:
        """Of the kernel; ``own`` pairs, each 1, are of a sample with itself and left out."""
        total = sum(_kernel(block, b, sigma).sum().item() for block in torch.split(a, _BLOCK))
        return (total - own) / (len(a) * len(b) - own)

    own = (len(x), len(y)) if unbiased else (0, 0)
    return mean(x, x, own[0]) + mean(y, y, own[1]) - 2 * mean(x, y, 0)


def _kernel(a: Tensor, b: Tensor, sigma: float) -> Tensor:
    # distances themselves and not by products: a sample is at distance 0 from itself, exactly
    distances = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.exp(-distances.square() / (2 * sigma**2))


class _Given(nn.Module):
    """An extractor for features that were extracted already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def image_metrics(name: str) -> Any:
    """A module of ``torchmetrics.image``."""
    from importlib import import_module

    try:
        return import_module(f"torchmetrics.image.{name}")
    except ImportError as error:
        raise ImportError(
            f"{name}: needs torchmetrics: pip install torchmetrics, or the extra `evaluate` of weft ({error})"
        ) from error


def _check(real: Tensor, drawn: Tensor, who: str) -> None:
    if real.ndim != 2 or drawn.ndim != 2 or real.shape[1] != drawn.shape[1]:
        raise ValueError(
            f"{who}: `real` and `drawn` must be [N, D] and [M, D]; got {tuple(real.shape)} and {tuple(drawn.shape)}"
        )
