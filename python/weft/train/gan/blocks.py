"""Parts that both designs are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.train.gan.ranks import BatchNorm

SLOPE = 0.2  # of leaky rectifiers


def conv3(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)


def conv1(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=bias)


class Modulation(nn.Module):
    """Scale and shift of each channel, from a condition; it begins with none of either."""

    def __init__(self, condition: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(condition, hidden)
        self.out = nn.Linear(hidden, 2 * channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """[B, condition] to two [B, C, 1, 1]."""
        scale, shift = self.out(F.relu(self.hidden(condition)))[:, :, None, None].chunk(2, 1)
        return scale, shift


class ConditionalNorm(nn.Module):
    """Batch normalisation whose scale and shift come from a condition, each pixel taking as much as its mask says.

        y = (1 + m g) x' + m b

    Source:
        Semantic-spatial condition batch normalisation of SSA-GAN (arXiv:2104.00567, equation 4).
    """

    def __init__(self, channels: int, condition: int, hidden: int) -> None:
        super().__init__()
        self.norm = BatchNorm(channels, affine=False)
        self.modulation = Modulation(condition, channels, hidden)

    def forward(self, x: Tensor, condition: Tensor, mask: Tensor | None = None) -> Tensor:
        """
        Args:
            x: [B, C, h, w].
            condition: [B, W].
            mask: [B, 1, h, w] in [0, 1]; None for 1 everywhere.
        """
        scale, shift = self.modulation(condition)
        if mask is not None:
            scale, shift = mask * scale, mask * shift
        return torch.addcmul(shift, 1 + scale, self.norm(x))


class Gated(nn.Module):
    """A gated linear unit over channels: one half times the sigmoid of the other."""

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(x, 1)


def twice(x: Tensor) -> Tensor:
    """Each pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
