"""An AttnGAN: stages of growing size, each of which looks at the words again and has a discriminator of its own.

Source:
    Xu et al. 2018, arXiv:1711.10485. Style blocks, which arXiv:2312.10854 adds without publishing them, are here those
    of a mapping network whose output scales and shifts normalised features (arXiv:1812.04948).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft import ops
from weft.train.gan.blocks import SLOPE, ConditionalNorm, Gated, conv3, twice
from weft.train.gan.drawn import Drawn, Text
from weft.train.gan.ranks import BatchNorm
from weft.train.gan.sizes import doublings, smallest_side


class Augmentation(nn.Module):
    """A random condition near the sentence, drawn from a normal distribution that the sentence says."""

    def __init__(self, sentence: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(sentence, 4 * width), nn.GLU(1))

    def forward(self, sentence: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """[B, W] and N(0, 1) [B, width] to the condition [B, width], and its divergence from a normal one."""
        mean, log_variance = self.layers(sentence).chunk(2, 1)
        divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).mean()
        return mean + (0.5 * log_variance).exp() * noise, divergence


class UpBlock(nn.Module):
    """Twice the side, through a gate; with ``style`` the norm's scale and shift follow it."""

    def __init__(self, inputs: int, outputs: int, style: int = 0) -> None:
        super().__init__()
        self.conv = conv3(inputs, 2 * outputs, bias=False)
        self.norm: nn.Module = ConditionalNorm(2 * outputs, style, style) if style else BatchNorm(2 * outputs)
        self.gate = Gated()

    def forward(self, x: Tensor, style: Tensor | None) -> Tensor:
        y = self.conv(twice(x))
        return self.gate(self.norm(y) if style is None else self.norm(y, style))


class Residual(nn.Module):
    """Two convolutions beside the way through."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv3(channels, 2 * channels, bias=False),
            BatchNorm(2 * channels),
            Gated(),
            conv3(channels, channels, bias=False),
            BatchNorm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class WordAttention(nn.Module):
    """What the words say about each pixel."""

    def __init__(self, channels: int, words: int) -> None:
        super().__init__()
        self.project = nn.Linear(words, channels, bias=False)

    def forward(self, x: Tensor, text: Text) -> Tensor:
        """[B, C, h, w] to the same shape."""
        keys = self.project(text.words)[:, :, None]  # [B, T, 1, C]
        pixels = x.flatten(2).transpose(1, 2)[:, :, None].contiguous()  # [B, h * w, 1, C]
        # as published: logits are plain products, and padding of no sample takes part
        seen = ops.attention(pixels, keys.to(pixels.dtype), keys.to(pixels.dtype), scale=1.0, key_padding=text.padding)
        return seen[:, :, 0].transpose(1, 2).reshape(x.shape)


class NextStage(nn.Module):
    """Twice the side after another look at the words."""

    def __init__(self, channels: int, words: int, residuals: int, style: int) -> None:
        super().__init__()
        self.attention = WordAttention(channels, words)
        self.residuals = nn.Sequential(*(Residual(2 * channels) for _ in range(residuals)))
        self.up = UpBlock(2 * channels, channels, style)

    def forward(self, x: Tensor, text: Text, style: Tensor | None) -> Tensor:
        return self.up(self.residuals(torch.cat([x, self.attention(x, text)], 1)), style)


class AttnGenerator(nn.Module):
    """Noise and words to pictures of several sizes, each half of the next.

    Args:
        stages: Sizes; the last is ``resolution``.
        width: Channels at every stage's end.
        noise: Numbers of noise a picture; of the augmented condition there are as many more in ``noise_width``.
        residuals: Blocks of a later stage.
        style_blocks: Whether a style made of noise and condition scales and shifts the norms.
    """

    def __init__(
        self,
        resolution: int,
        *,
        stages: int,
        width: int,
        noise: int,
        words: int,
        residuals: int = 2,
        style_blocks: bool = False,
    ) -> None:
        super().__init__()
        ups = doublings(resolution) - (stages - 1)
        self.augmentation = Augmentation(words, noise)
        widths = [width * 2 ** (ups - number) for number in range(ups + 1)]
        self.side = smallest_side(resolution)
        self.first = nn.Linear(2 * noise, 2 * widths[0] * self.side**2, bias=False)
        self.first_norm = nn.Sequential(BatchNorm(2 * widths[0]), Gated())
        style = 2 * noise if style_blocks else 0
        self.mapping = nn.Sequential(*(_layer(style) for _ in range(2))) if style_blocks else None
        self.ups = nn.ModuleList(UpBlock(before, after, style) for before, after in pairwise(widths))
        self.later = nn.ModuleList(NextStage(width, words, residuals, style) for _ in range(stages - 1))
        self.pictures = nn.ModuleList(nn.Sequential(conv3(width, 3, bias=False), nn.Tanh()) for _ in range(stages))
        self.noise_width = 2 * noise

    def forward(self, noise: Tensor, text: Text) -> Drawn:
        """
        Args:
            noise: N(0, 1), [B, noise_width]; the second half augments the condition.
            text: Of B captions.
        """
        noise, jitter = noise.chunk(2, 1)
        condition, divergence = self.augmentation(text.sentence, jitter)
        start = torch.cat([condition, noise], 1)
        style = None if self.mapping is None else self.mapping(start)
        x = self.first_norm(self.first(start).unflatten(1, (-1, self.side, self.side)))
        for up in self.ups:
            x = up(x, style)
        images = [self.pictures[0](x)]
        for stage, picture in zip(self.later, list(self.pictures)[1:], strict=True):
            x = stage(x, text, style)
            images.append(picture(x))
        return Drawn(tuple(images), divergence)


class StageDiscriminator(nn.Module):
    """How real a picture of one size is, by itself and together with its sentence."""

    def __init__(self, resolution: int, *, width: int, sentence: int) -> None:
        super().__init__()
        steps = doublings(resolution)
        widths = [width * min(2**number, 8) for number in range(steps)]
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(SLOPE)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), BatchNorm(after), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers)
        last = widths[-1]
        self.joint = nn.Sequential(conv3(last + sentence, last, bias=False), BatchNorm(last), nn.LeakyReLU(SLOPE))
        self.alone_logit = nn.Conv2d(last, 1, smallest_side(resolution))
        self.joint_logit = nn.Conv2d(last, 1, smallest_side(resolution))

    def features(self, image: Tensor) -> Tensor:
        """[B, 3, h, w] to maps of the smallest side, [B, C, s, s]."""
        return self.layers(image)

    def alone(self, features: Tensor) -> Tensor:
        """[B] logits of pictures by themselves."""
        return self.alone_logit(features).flatten()

    def together(self, features: Tensor, sentence: Tensor) -> Tensor:
        """[B] logits of pictures with what they should show."""
        spread = sentence[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return self.joint_logit(self.joint(torch.cat([features, spread], 1))).flatten()


class AttnDiscriminator(nn.Module):
    """One discriminator a stage."""

    def __init__(self, resolution: int, *, stages: int, width: int, sentence: int) -> None:
        super().__init__()
        sizes = [resolution >> (stages - 1 - number) for number in range(stages)]
        self.stages = nn.ModuleList(StageDiscriminator(size, width=width, sentence=sentence) for size in sizes)

    def codes(self, images: tuple[Tensor, ...]) -> Tensor:
        """Features of the largest pictures as a source for losses, [B, C]."""
        last = list(self.stages)[-1]
        assert isinstance(last, StageDiscriminator)
        return F.relu(last.features(images[-1])).sum((2, 3))


def _layer(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(SLOPE))


def smaller(image: Tensor, stages: int) -> tuple[Tensor, ...]:
    """A real picture at the size of each stage."""
    sizes = [image.shape[-1] >> (stages - 1 - number) for number in range(stages)]
    return tuple(image if size == image.shape[-1] else F.adaptive_avg_pool2d(image, size) for size in sizes)
