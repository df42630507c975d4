"""Which generated pictures of a batch are negatives of one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.train.distribution.kinds import Loss


def linked(numbers: Tensor) -> Tensor:
    """Ids int64 [N], equal where rows of ``numbers`` [N, C] share one, at any place, or are linked by other rows.

    With numbers of captions: both views of a picture are compared with both of another, so that one caption in common
    is enough for the two to be no negatives. An id is the first row of those that are linked.
    """
    share = (numbers[:, None, :, None] == numbers[None, :, None, :]).flatten(2).any(-1)
    ids = torch.arange(len(numbers), device=numbers.device)
    while True:
        first = torch.where(share, ids, len(ids)).amin(1)
        if torch.equal(first, ids):
            return ids
        ids = first


def with_negatives(losses: Sequence[Loss], images: Tensor, classes: Tensor | None) -> list[Loss]:
    """Those of ``losses`` by which some pictures with these ids [N] are negatives of one another."""
    # where there are several of both ids, two pictures somewhere differ in both
    one_picture = bool((images == images[0]).all())
    one_kind = classes is not None and bool((classes == classes[0]).all())
    return [loss for loss in losses if not one_picture and not (one_kind and loss.class_mask is not False)]
