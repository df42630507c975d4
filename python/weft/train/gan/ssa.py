"""An SSA-GAN: the sentence enters where predicted masks let it, and the discriminator looks one way only.

Source:
    Liao et al. 2022, arXiv:2104.00567; the discriminator and its penalty are DF-GAN's (Tao et al., arXiv:2008.05865).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.train.gan.blocks import SLOPE, ConditionalNorm, conv1, conv3, twice
from weft.train.gan.drawn import Drawn, Text
from weft.train.gan.ranks import BatchNorm
from weft.train.gan.sizes import doublings, smallest_side

WIDTHS = (8, 8, 8, 8, 4, 2, 1)  # of the blocks of a generator of 256 pixels; smaller ones take the last of these
DISCRIMINATOR_WIDTHS = (1, 2, 4, 8, 16, 16, 16)  # of its first convolution, and after each halving


class MaskPredictor(nn.Module):
    """Where the text shall enter, [B, 1, h, w] before the sigmoid."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv3(channels, hidden, bias=False), BatchNorm(hidden), nn.ReLU(), conv1(hidden, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SsaBlock(nn.Module):
    """Two convolutions with the sentence in their norms, added to a shortcut by a factor that begins at 0."""

    def __init__(self, inputs: int, outputs: int, sentence: int, hidden: int) -> None:
        super().__init__()
        # no biases, which the norms would take away
        self.first, self.second = conv3(inputs, outputs, bias=False), conv3(outputs, outputs, bias=False)
        self.first_norm = ConditionalNorm(outputs, sentence, hidden)
        self.second_norm = ConditionalNorm(outputs, sentence, hidden)
        self.shortcut = conv1(inputs, outputs) if inputs != outputs else nn.Identity()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, sentence: Tensor, mask: Tensor) -> Tensor:
        y = F.relu(self.first_norm(self.first(x), sentence, mask))
        y = F.relu(self.second_norm(self.second(y), sentence, mask))
        return self.shortcut(x) + self.gamma * y


class SsaGenerator(nn.Module):
    """Noise and a sentence to a picture.

    Args:
        width: Channels at the full resolution.
        noise: Numbers of noise a picture.
        sentence: Width of the sentence.
        hidden: Of the modulations.
        mask_width: Of the mask predictors.
    """

    def __init__(
        self, resolution: int, *, width: int, noise: int, sentence: int, hidden: int = 256, mask_width: int = 100
    ) -> None:
        super().__init__()
        widths = [width * factor for factor in WIDTHS[-1 - doublings(resolution) :]]
        self.side = smallest_side(resolution)
        self.first = nn.Linear(noise, widths[0] * self.side**2)
        inputs = [widths[0], *widths[:-1]]
        self.blocks = nn.ModuleList(
            SsaBlock(before, after, sentence, hidden) for before, after in zip(inputs, widths, strict=True)
        )
        # the first looks at the noise, each other at what the block before has made
        self.masks = nn.ModuleList(MaskPredictor(before, mask_width) for before in inputs)
        self.last = nn.Sequential(BatchNorm(width), nn.LeakyReLU(SLOPE), conv3(width, 3), nn.Tanh())
        self.noise_width = noise

    def forward(self, noise: Tensor, text: Text) -> Drawn:
        """
        Args:
            noise: [B, noise_width].
            text: Of B captions.
        """
        x = self.first(noise).unflatten(1, (-1, self.side, self.side))
        for number, (block, predictor) in enumerate(zip(self.blocks, self.masks, strict=True)):
            mask = predictor(x)
            if number:
                x = twice(x)
                mask = F.interpolate(mask, x.shape[2:], mode="bilinear", align_corners=True)
            x = block(x, text.sentence, mask.sigmoid())
        return Drawn((self.last(x),))


class DownBlock(nn.Module):
    """Half the side, with a residual whose factor begins at 0."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False),
            nn.LeakyReLU(SLOPE),
            conv3(outputs, outputs, bias=False),
            nn.LeakyReLU(SLOPE),
        )
        self.shortcut = conv1(inputs, outputs) if inputs != outputs else nn.Identity()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        # pooled first: a 1x1 convolution and a mean may change places, and this order is a quarter of the work
        return self.shortcut(F.avg_pool2d(x, 2)) + self.gamma * self.residual(x)


class SsaDiscriminator(nn.Module):
    """How real a picture is together with its sentence: one number, and none for the picture alone (one way)."""

    def __init__(self, resolution: int, *, width: int, sentence: int) -> None:
        super().__init__()
        widths = [width * factor for factor in DISCRIMINATOR_WIDTHS[: doublings(resolution) + 1]]
        self.first = conv3(3, width)
        self.blocks = nn.Sequential(*(DownBlock(before, after) for before, after in pairwise(widths)))
        self.joint = conv3(widths[-1] + sentence, 2 * width, bias=False)
        self.last = nn.Conv2d(2 * width, 1, smallest_side(resolution), bias=False)

    def features(self, image: Tensor) -> Tensor:
        """[B, 3, h, w] to maps of the smallest side, [B, C, s, s]."""
        return self.blocks(self.first(image))

    def judge(self, features: Tensor, sentence: Tensor) -> Tensor:
        """[B]; high for real pictures that show what the sentence says."""
        spread = sentence[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return self.last(F.leaky_relu(self.joint(torch.cat([features, spread], 1)), SLOPE)).flatten()

    def codes(self, images: tuple[Tensor, ...]) -> Tensor:
        """Features of pictures as a source for losses, [B, C]."""
        return F.relu(self.features(images[-1])).sum((2, 3))
