"""What looks at pictures for the matching model: a small network of our own, or any frozen one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weft.train.gan.blocks import SLOPE

# of each colour channel in [0, 1], as CLIP and most others are trained with
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
GROUP = 8  # channels that are normalised together


class SmallImageEncoder(nn.Module):
    """Four convolutions that halve the side; regions come from the third, the code of the whole from the last.

    Args:
        width: Of regions and code.
        channels: Of the first convolution.
        size: Pixels that pictures are resized to, a multiple of 16.
    """

    def __init__(self, *, width: int, channels: int = 32, size: int = 64) -> None:
        super().__init__()
        self.size, self.width = size, width
        self.near = nn.Sequential(_down(3, channels), _down(channels, 2 * channels), _down(2 * channels, 4 * channels))
        self.far = nn.Sequential(_down(4 * channels, 4 * channels), nn.Flatten())
        self.region = nn.Conv2d(4 * channels, width, 1, bias=False)
        # not the mean over the map: captions distinguish left from right
        self.code = nn.Linear(4 * channels * (size // 16) ** 2, width)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, h, w] in [-1, 1] to regions [B, R, width] and codes [B, width]."""
        near = self.near(resized(images, self.size))
        return self.region(near).flatten(2).transpose(1, 2), self.code(self.far(near))


def vision_tower(model: Any) -> Any:
    """What looks at pictures in a model that may have two towers."""
    return getattr(model, "vision_model", model)


class PretrainedImages(nn.Module):
    """A frozen network, and two learnt projections to the common width.

    Args:
        model: Gives ``last_hidden_state`` [B, R, C] or [B, C, h, w], as models of transformers do, or a tensor of
            either form. A model with two towers is asked for its vision tower.
        width: Of regions and code.
        size: Pixels that pictures are resized to; None for what ``model.config`` says.
        mean, std: Of each colour channel in [0, 1] that the model was trained with.
    """

    def __init__(
        self,
        model: Any,
        *,
        width: int,
        size: int | None = None,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        self.model = vision_tower(model)
        self.model.requires_grad_(False).eval()
        self.size, self.width = size or getattr(getattr(self.model, "config", None), "image_size", None), width
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])
        with torch.no_grad():
            shape = self._seen(torch.zeros(1, 3, self.size or 64, self.size or 64)).shape
        self.region, self.code = nn.Linear(shape[2], width, bias=False), nn.Linear(shape[2], width)

    def train(self, mode: bool = True) -> PretrainedImages:
        """As of any module, but the frozen model stays without dropout."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As of ``SmallImageEncoder``."""
        seen = self._seen(images)
        return self.region(seen), self.code(seen.mean(1))

    def _seen(self, images: Tensor) -> Tensor:
        """[B, R, C]."""
        images = images if self.size is None else resized(images, self.size)
        pixels = (images / 2 + 0.5 - self.mean) / self.std
        # a model may be kept in half precision
        kind = next((value.dtype for value in self.model.parameters()), pixels.dtype)
        found = self.model(pixels.to(kind))
        found = getattr(found, "last_hidden_state", found)
        if not isinstance(found, Tensor) or found.ndim not in (3, 4):
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"fit_gan: `vision` must give features [B, R, C] or [B, C, h, w], or an output with such a "
                f"`last_hidden_state`; got {what}"
            )
        found = found.to(self.mean.dtype)
        return found.flatten(2).transpose(1, 2) if found.ndim == 4 else found


def resized(images: Tensor, size: int) -> Tensor:
    """Pictures ``size`` pixels wide."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)


def _down(inputs: int, outputs: int) -> nn.Sequential:
    # groups, so that what a picture's code is does not depend on its batch
    norm = nn.GroupNorm(max(outputs // GROUP, 1), outputs)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), norm, nn.LeakyReLU(SLOPE))
