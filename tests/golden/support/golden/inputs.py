"""Seeded inputs. numpy's generator gives the same bits on every machine and in every version; torch's does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Draw:
    """Draws tensors one after the other."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.as_tensor(scale * self._generator.standard_normal(shape)).to(dtype)

    def uniform(self, *shape: int) -> Tensor:
        return torch.from_numpy(self._generator.random(shape)).float()

    def integers(self, most: int, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.from_numpy(self._generator.integers(most, size=shape)).to(dtype)

    def chance(self, share: float, *shape: int) -> Tensor:
        return torch.from_numpy(self._generator.random(shape) < share)


def with_gradients(
    call: Callable[..., Tensor | tuple[Tensor, ...]], floats: Mapping[str, Tensor], names: tuple[str, ...], seed: int
) -> dict[str, Tensor]:
    """Results of a call by ``names``, and the gradients of its float arguments for seeded gradients of all results."""
    leaves = {name: value.detach().requires_grad_() for name, value in floats.items()}
    results: Any = call(**leaves)
    results = results if isinstance(results, tuple) else (results,)
    draw = Draw(seed)
    arriving = [draw.normal(*result.shape, dtype=result.dtype) for result in results]
    gradients = torch.autograd.grad(results, list(leaves.values()), arriving)
    made = dict(zip(names, results, strict=True))
    return made | {f"d_{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
