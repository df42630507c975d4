"""Processes that train together, as ``accelerate launch`` starts them, and what they compare."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

WORLD = 2


@contextmanager
def process(rank: int, folder: str) -> Iterator[None]:
    """The ``rank``-th of ``WORLD`` that meet in ``folder``; it ends with the block, after all others have come there.

    The interpreter ends with it: one that ends while threads of gloo are alive aborts now and then.
    """
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": str(WORLD), "RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    yield
    dist.barrier()
    os._exit(0)


def averaged(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean over processes, in place."""
    for value in values.values():
        dist.all_reduce(value)
        value /= WORLD
    return values


def assert_same_everywhere(value: Tensor) -> None:
    everybodys = [torch.empty_like(value) for _ in range(WORLD)]
    dist.all_gather(everybodys, value.contiguous())
    assert torch.equal(*everybodys)
