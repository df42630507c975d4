"""``contrastive_loss`` across processes: the columns of every rank, gathered with gradients.

A symmetric loss becomes two one-way losses, own rows against all columns and own columns against all rows: what a rank
computes then is its share of the work, and nothing but features and ids travels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor

from weft.ops.contrastive_loss.columns import Columns, Ids, ids_of


def across_ranks(rows: Tensor, segments: list[Columns], group: Any) -> list[tuple[Tensor, list[Columns]]]:
    """Calls of one process whose losses add up to this rank's: rows and their segments, ids spelt out.

    Args:
        rows: [R, D] of this rank; every rank has as many.
        segments: This rank's columns; every rank has as many in each.
        group: Of ``torch.distributed``.
    """
    rank = dist.get_rank(group)
    one_way, turned = [], []
    for segment in segments:
        sizes = (rows.shape[0], segment.values.shape[0])
        # row i and column i of a rank are the same thing nowhere else
        first = rank * max(sizes)
        ids = {
            name: None if given is None else ids_of(given, *sizes, first, rows.device)
            for name, given in _relations(segment).items()
        }
        weight = segment.weight / 2 if segment.symmetric else segment.weight
        plain = replace(segment, symmetric=False, weight=weight)
        one_way.append(replace(plain, values=gather(segment.values, group), **_towards(ids, group)))
        if segment.symmetric:
            back = {name: None if pair is None else pair[::-1] for name, pair in ids.items()}
            opposite = replace(plain, values=gather(rows, group), **_towards(back, group))
            turned.append((segment.values, [opposite]))
    return [(rows, one_way), *turned]


def gather(x: Tensor, group: Any) -> Tensor:
    """``x`` of all ranks, one after the other; the gradients of each part add up on the rank that it is from."""
    if x.requires_grad and torch.is_grad_enabled():
        return torch.cat(differentiable.all_gather(x.contiguous(), group))  # type: ignore[no-untyped-call]
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x.detach().contiguous(), group)
    return torch.cat(parts)


def _relations(segment: Columns) -> dict[str, Ids | str | None]:
    return {"positives": segment.positives, "exclude": segment.exclude, "classes": segment.classes}


def _towards(ids: dict[str, tuple[Tensor, Tensor] | None], group: Any) -> dict[str, Any]:
    """Own ids of the rows, and all of the columns."""
    return {name: None if pair is None else (pair[0], gather(pair[1], group)) for name, pair in ids.items()}
