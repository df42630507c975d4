"""How far apart the images of a group are: of the wordings of one scene, of the noises of one caption."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def spread(features: Tensor) -> float:
    """Mean Euclidean distance between two images of a group, [n, D] features of them.

    Raises:
        ValueError: Fewer than two images.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"spread: `features` must be [n, D] of at least two images; got {tuple(features.shape)}")
    wide = features.double()
    distances = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist")
    return float(distances.sum() / (len(wide) * (len(wide) - 1)))


def spreads(features: Tensor, groups: Sequence[Sequence[int]]) -> list[float]:
    """``spread`` of every group, given by rows of ``features`` [N, D]."""
    return [spread(features[list(group)]) for group in groups]
