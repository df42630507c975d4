"""Random streams named by integers, so that no state has to be saved to go on where a run stopped."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor


def torch_generator(*key: int) -> torch.Generator:
    """A CPU generator whose stream depends on the non-negative integers of ``key`` and on nothing else."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)


def shuffled(count: int, seed: int, epoch: int, place: int) -> int:
    """Which of ``count`` things comes at ``place`` of an epoch: each once, in a new order every time."""
    return int(_order(count, seed, epoch)[place])


@functools.lru_cache(maxsize=2)  # a batch may reach into the next epoch
def _order(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=torch_generator(seed, 1, epoch))
