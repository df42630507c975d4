"""The bounded logit with its two constants, given or learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from weft.ops import bounded_logit


class Logit(nn.Module):
    """scale * exp(-error / width); where the constants are learnt, it is their logarithms, so they stay above 0.

    Attributes:
        log_scale, log_width: [] fp32; None where they are given.
    """

    def __init__(self, scale: float = 4.0, width: float = 0.07, *, learn: bool = False) -> None:
        super().__init__()
        self._scale, self._width = scale, width
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale))) if learn else None
        self.log_width = nn.Parameter(torch.tensor(math.log(width))) if learn else None

    def forward(self, error: Tensor, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits of ``error``, of any shape; ``values`` stand in for the parameters."""
        return bounded_logit(error, *self.constants(values))

    def constants(self, values: Mapping[str, Tensor] | None = None) -> tuple[float | Tensor, float | Tensor]:
        """Scale and width."""
        values = dict(self.named_parameters()) if values is None else values
        if not values:
            return self._scale, self._width
        return values["log_scale"].exp(), values["log_width"].exp()

    def learnt(self) -> dict[str, Tensor]:
        """The constants by name, where they are learnt."""
        found = zip(("logit_scale", "logit_width"), self.constants(), strict=True)
        return {name: value.detach() for name, value in found if isinstance(value, Tensor)}
