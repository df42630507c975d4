"""Batches of pictures, each with two of its captions and two noises, as a function of the samples seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from weft.train.core import shuffled, torch_generator
from weft.train.gan.pictures import Pictures, check_classes
from weft.train.pictures import number_of


class GanBatch(NamedTuple):
    """B pictures.

    Attributes:
        images: [B, 3, h, w] fp32 in [-1, 1].
        numbers: Of words, int64 [B, 2, T]: two captions, drawn independently, so that they may be the same.
        noise: N(0, 1), [B, 2, Z].
        pictures: Ids int64 [B], equal for the same picture.
        captions: Ids int64 [B, 2], equal for the same text.
        classes: Ids int64 [B], negative where a picture has no class.
        seed: int64 [1], for what else is random, of the same distribution in every process.
    """

    images: Tensor
    numbers: Tensor
    noise: Tensor
    pictures: Tensor
    captions: Tensor
    classes: Tensor
    seed: Tensor

    @property
    def alike(self) -> Tensor:
        """Ids [B, 2] of each caption, equal where it fits another picture too: of a class, or the same words."""
        return torch.where(self.classes[:, None] >= 0, self.classes[:, None], self.captions)


@dataclass(frozen=True, eq=False)
class GanBatches:
    """The function from the samples seen to the next batch of a process.

    Every picture comes once an epoch.

    Attributes:
        numbers: Captions as the text encoder takes them, int64 [captions, T].
        noise_width: Z.
        process: Number of this one.
        needs_classes: Whether pictures without a class are refused.
    """

    pictures: Pictures
    numbers: Callable[[Sequence[str]], Tensor]
    size: int
    noise_width: int
    seed: int = 0
    process: int = 0
    needs_classes: bool = False

    def __call__(self, samples: int) -> GanBatch:
        first, count = samples + self.process * self.size, len(self.pictures)
        places = [shuffled(count, self.seed, *divmod(first + i, count)) for i in range(self.size)]
        # by sample, so that processes together have what one would have
        streams = [torch_generator(self.seed, 4, first + i) for i in range(self.size)]
        drawn = [self.pictures[place] for place in places]
        if self.needs_classes:
            check_classes(zip(places, drawn, strict=True))
        which = [torch.randint(2**31, (2,), generator=stream).tolist() for stream in streams]
        captions = [
            [picture.captions[number % len(picture.captions)] for number in numbers]
            for picture, numbers in zip(drawn, which, strict=True)
        ]
        noise = torch.stack([torch.randn(2, self.noise_width, generator=stream) for stream in streams])
        views = [self.pictures.view(picture, stream) for picture, stream in zip(drawn, streams, strict=True)]
        numbers = self.numbers([caption for both in captions for caption in both])
        return GanBatch(
            torch.stack(views),
            numbers.view(self.size, 2, -1),
            noise,
            torch.tensor(places),
            torch.tensor([[number_of(caption) for caption in both] for both in captions]),
            torch.tensor([-1 if picture.group is None else picture.group for picture in drawn]),
            torch.tensor([first]),
        )
