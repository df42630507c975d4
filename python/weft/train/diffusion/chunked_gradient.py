"""The gradient of a sum, term by term: each term's graph is freed before the next is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class ChunkedGradient:
    """Derivatives of a sum whose terms are differentiated as they come, so that memory is that of one term.

    Without gradients (``torch.no_grad``) it does nothing.

    Attributes:
        leaves: Used in place of the parameters, by their names; terms must be computed from these.
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, scale: float = 1.0) -> None:
        """Terms are multiplied by ``scale`` while they are differentiated, so that fp16 gradients do not vanish."""
        self._parameters, self._scale = parameters, scale
        self.is_wanted = torch.is_grad_enabled()
        self.leaves = {
            name: parameter.detach().requires_grad_(self.is_wanted) for name, parameter in parameters.items()
        }
        self._found = [torch.zeros_like(leaf) for leaf in self.leaves.values()]

    def add(self, term: Tensor) -> None:
        """Differentiate ``term``, a scalar; its graph is gone afterwards."""
        if not self.is_wanted:
            return
        parts = torch.autograd.grad(term * self._scale, tuple(self.leaves.values()), allow_unused=True)
        for total, part in zip(self._found, parts, strict=True):
            if part is not None:
                total += part / self._scale

    def add_known(self, slopes: Sequence[Tensor]) -> None:
        """Add the derivatives of a term that was differentiated elsewhere, in the order of ``leaves``."""
        for total, part in zip(self._found, slopes, strict=True):
            total += part

    def total(self, value: Tensor) -> Tensor:
        """``value``, which is what the terms add up to, with their derivatives for its own."""
        if not self.is_wanted:
            return value
        return differentiated(value, list(self._parameters.values()), self._found)


def differentiated(value: Tensor, tensors: Sequence[Tensor], slopes: Sequence[Tensor]) -> Tensor:
    """``value`` with ``slopes`` for its derivatives with respect to ``tensors``."""
    return _Differentiated.apply(value, *tensors, *slopes)  # type: ignore[no-untyped-call]


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
