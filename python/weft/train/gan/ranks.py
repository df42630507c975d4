"""What a batch spread over processes must know of its other parts, so that it trains as in one process.

Every process reckons the losses that compare pictures over the pictures of all; the loop then averages gradients.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather, all_reduce


def is_spread() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def of_all(part: Tensor) -> Tensor:
    """Rows of all processes, one after the other, with gradients to each."""
    if not is_spread():
        return part
    if part.is_floating_point():
        return torch.cat(all_gather(part))  # type: ignore[no-untyped-call]
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts)


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
        mean, square = all_reduce(moments) / dist.get_world_size()  # type: ignore[no-untyped-call]
        variance = square - mean.square()
        count = dist.get_world_size() * x.numel() // x.shape[1]
        with torch.no_grad():
            assert self.momentum is not None and self.running_mean is not None and self.running_var is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        return F.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
