"""The gradient of a sum, term by term: each term's graph is freed before the next is made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ChunkedGradient:
    """Derivatives of a sum whose terms are differentiated as they come, so that memory is that of one term.

    Without gradients (``torch.no_grad``) it does nothing.

    Attributes:
        leaves: Stand in for ``sources``; terms must be computed from these.
    """

    def __init__(self, *sources: Tensor, scale: float = 1.0) -> None:
        """Terms are multiplied by ``scale`` while they are differentiated, lest fp16 gradients vanish."""
        self._sources, self._scale = sources, scale
        self._is_wanted = torch.is_grad_enabled()
        self.leaves = tuple(source.detach().requires_grad_(self._is_wanted) for source in sources)
        self._found = [torch.zeros_like(leaf) for leaf in self.leaves]

    def add(self, term: Tensor) -> None:
        """Differentiate ``term``, a scalar; its graph is gone afterwards."""
        if not self._is_wanted:
            return
        for total, part in zip(
            self._found, torch.autograd.grad(term * self._scale, self.leaves, allow_unused=True), strict=True
        ):
            if part is not None:
                total += part / self._scale

    def total(self, value: Tensor) -> Tensor:
        """``value``, which is what the terms add up to, with their derivatives for its own."""
        if not self._is_wanted:
            return value
        return _Differentiated.apply(value, *self._sources, *self._found)  # type: ignore[no-untyped-call]


class _Differentiated(torch.autograd.Function):
    """A value whose derivatives with respect to some tensors are known already: first those, then their gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[len(tensors) // 2 :])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        found = [above * gradient for gradient in ctx.saved_tensors]
        return (None, *found, *(None for _ in found))
