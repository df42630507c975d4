"""The arguments of ``lowrank_linear`` as one record, which the definition and every backend take."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


# a tuple, which costs least to make: small layers take tens of microseconds
class Arguments(NamedTuple):
    """One call, checked and brought to one form.

    Attributes:
        x: [B, N, Cin], any float dtype.
        weight: W, [Cout, Cin], dtype of ``x``; None where ``base`` is given.
        bias: b, [Cout], or None.
        down: A, [R, Cin], applied first; None for no concepts.
        up: B, [Cout, R]; None with ``down``.
        ranks: Of each of the K concepts, sum R.
        gate: G, [B or 1, N or 1, K], fp32 (fp64 for fp64 input); None for 1 everywhere.
        residual: [B, N, Cout], or None.
        base: [B, N, Cout], what the layer itself gave; None where ``weight`` is given.
        channels_first: Whether a backend writes [B, Cout, N] instead of [B, N, Cout].
    """

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None = None
    down: Tensor | None = None
    up: Tensor | None = None
    ranks: tuple[int, ...] = ()
    gate: Tensor | None = None
    residual: Tensor | None = None
    base: Tensor | None = None
    channels_first: bool = False

    @property
    def width_out(self) -> int:
        """Cout."""
        for matrix in (self.weight, self.up):
            if matrix is not None:
                return matrix.shape[0]
        assert self.base is not None
        return self.base.shape[2]
