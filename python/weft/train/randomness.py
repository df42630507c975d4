"""Random streams named by integers, so that no state has to be saved to go on where a run stopped."""

from __future__ import annotations

import numpy as np
import torch


def torch_generator(*key: int) -> torch.Generator:
    """A CPU generator whose stream depends on the non-negative integers of ``key`` and on nothing else."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)
