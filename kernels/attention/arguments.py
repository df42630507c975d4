"""The arguments of ``attention`` as one record, which the definition and every backend take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

TABLE_NAMES = ("alpha", "beta", "gamma", "delta")


# a tuple, since a call may take ten microseconds: of a dataclass with these fields, frozen, making one takes three
class Arguments(NamedTuple):
    """One call, checked.

    Attributes:
        q: [B, Nq, H, D], any float dtype. Arithmetic is fp32, or fp64 for fp64 input.
        k, v: [B, Nk, Hk, D], dtype of ``q``; H a multiple of Hk. Head h of ``q`` reads head h // (H // Hk).
        scale: Factor of the raw logits.
        alpha, beta, gamma, delta: [B or 1, Lq, Lk] each, or None for 1, 0, 0, 0.
        readout: W, [B or 1, Nk, M], or None for M = 0.
        query_labels: r, integer [B or 1, Nq] in [0, Lq), or None for label 0 everywhere.
        key_labels: c, integer [B or 1, Nk] in [0, Lk), or None for label 0 everywhere.
        key_padding: bool [B or 1, Nk], True where the key is padding.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    alpha: Tensor | None = None
    beta: Tensor | None = None
    gamma: Tensor | None = None
    delta: Tensor | None = None
    readout: Tensor | None = None
    query_labels: Tensor | None = None
    key_labels: Tensor | None = None
    key_padding: Tensor | None = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Arguments:
        """The same call with every tensor changed."""
        changed: list[Any] = [change(x) if isinstance(x, Tensor) else x for x in self]
        return Arguments(*changed)

    @property
    def tables(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """(alpha, beta, gamma, delta)."""
        return self.alpha, self.beta, self.gamma, self.delta

    @property
    def labels(self) -> tuple[int, int]:
        """(Lq, Lk), (1, 1) without an edit."""
        for table in self.tables:
            if table is not None:
                return table.shape[1], table.shape[2]
        return 1, 1

    @property
    def group(self) -> int:
        """H // Hk, the neighbouring heads of q that read one head of k and v."""
        return self.q.shape[2] // self.k.shape[2]

    @property
    def columns(self) -> int:
        """M."""
        return 0 if self.readout is None else self.readout.shape[2]
