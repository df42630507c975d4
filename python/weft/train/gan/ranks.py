"""What a batch spread over processes must know of its other parts, so that it trains as in one process.

Every process computes the losses that compare pictures over the pictures of all; the loop then averages gradients.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_spread() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def of_all(part: Tensor) -> Tensor:
    """Rows of all processes, one after the other, with gradients to each."""
    if not is_spread():
        return part
    return _Gathered.apply(part)  # type: ignore[no-untyped-call]


def own_rows(rows: Tensor) -> Tensor:
    """Those of this process among ``of_all``."""
    return rows.chunk(dist.get_world_size())[dist.get_rank()] if is_spread() else rows


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation over all processes, on any device; what torch has for that runs on GPUs alone.

    Attributes:
        is_alone: Whether this process normalises by itself all the same, since the others do something else.
    """

    is_alone = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.is_alone or not is_spread():
            return super().forward(x)
        wide = x.float()
        moments = torch.stack([wide.mean((0, 2, 3)), wide.square().mean((0, 2, 3))])
        mean, square = _Summed.apply(moments) / dist.get_world_size()  # type: ignore[no-untyped-call]
        variance = square - mean.square()
        count = dist.get_world_size() * x.numel() // x.shape[1]
        with torch.no_grad():
            assert self.momentum is not None and self.running_mean is not None and self.running_var is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        scale = (variance + self.eps).rsqrt() * (1.0 if self.weight is None else self.weight)
        shift = (0.0 if self.bias is None else self.bias) - mean * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


class _Gathered(torch.autograd.Function):
    """Rows of all processes; what all of them make of a row comes back to where it is from."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        return own_rows(summed)


class _Summed(torch.autograd.Function):
    """The sum over processes, and likewise of its gradients."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        summed = part.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        return summed
