"""Steps (h) and (i): what the regions make of the logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.testing.maskdiffusion.prompt import EagerObject

WEIGHT_START, WEIGHT_TOKEN, WEIGHT_HEAD = 0.01, 0.2, 0.2 * 5
THRESHOLD = 0.05  # heavier tokens are raised


def token_weights(
    covered: Tensor, objects: Sequence[EagerObject], tokens: int, tail: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(h): M of one grid, [pixels, tokens]. What comes later overwrites what came before.

    Args:
        covered: bool [n, pixels], where each object's region is.
        objects: The n objects.
        tokens: How many the text encoder gives, 77.
        tail: The first token of the tail.
        dtype: Of the result.
    """
    weights = torch.zeros(covered.shape[1], tokens, dtype=dtype, device=covered.device)
    weights[:, 0] = WEIGHT_START
    weights[:, tail:] = WEIGHT_TOKEN
    for inside, found in zip(covered, objects, strict=True):
        for token in found.span:
            weight = WEIGHT_HEAD if token == found.head else WEIGHT_TOKEN
            # an object without a region keeps its logits: the weight of the start token, on which nothing acts
            weights[:, token] = inside.to(dtype) * weight if inside.any() else WEIGHT_START
    return weights


def related_pixels(covered: Tensor) -> Tensor:
    """(h): G > 0 of one grid, bool [pixels, pixels]: whether a region holds both. ``covered`` as above."""
    regions = covered.float()
    return regions.T @ regions > 0


def edit_cross(logits: Tensor, weights: Tensor, strength: float, double: bool) -> Tensor:
    """(i): S~ of a cross-attention from S [..., pixels, tokens] and M."""
    highest, lowest = logits.amax(-1, keepdim=True), logits.amin(-1, keepdim=True)
    # a number times a bool tensor would be float32
    raised = logits + strength * weights * (weights > THRESHOLD) * (highest - logits)
    edited = raised - strength * (raised - lowest) * (weights == 0)
    return edited + (weights >= THRESHOLD) * raised if double else edited


def edit_self(logits: Tensor, related: Tensor, strength: float) -> Tensor:
    """(i): S~ of a self-attention from S [..., pixels, pixels] and G > 0."""
    highest, lowest = logits.amax(-1, keepdim=True), logits.amin(-1, keepdim=True)
    return torch.where(related, logits + strength * (highest - logits), logits - strength * (logits - lowest))
