"""Batches of pictures and captions for a contrast of every picture with every caption."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from weft.train.diffusion import Latents, encode_captions, encode_views, shuffled
from weft.train.images import View, views
from weft.train.pairs import Pair
from weft.train.randomness import torch_generator


@dataclass(frozen=True, eq=False)
class PairBatches:
    """The function from the samples seen to the next batch of a process.

    Every picture comes once an epoch, each time with one of its captions and with other noise.

    Attributes:
        pipe: Encodes the captions.
        pairs: As ``latents`` were made of.
        size: Pictures in a batch.
        timesteps: Of the training schedule; a batch has one.
        shared_noise: One noise for all pictures of a batch.
        process: Number of this one.
    """

    pipe: Any
    pairs: Sequence[Pair]
    latents: Latents
    size: int
    timesteps: int
    shared_noise: bool = True
    seed: int = 0
    process: int = 0

    def __call__(self, samples: int) -> tuple[Tensor, ...]:
        """The arguments of ``SoftTokensObjective.forward``."""
        first, count = samples + self.process * self.size, len(self.pairs)
        places = [shuffled(count, self.seed, *divmod(first + i, count)) for i in range(self.size)]
        generator = torch_generator(self.seed, 2, first)
        posterior, noise = torch.randn(2, self.size, *self.latents.mean.shape[1:], generator=generator)
        time = torch.randint(self.timesteps, (1,), generator=generator)
        which = torch.randint(2**31, (self.size,), generator=generator).tolist()
        captions = [self._caption(place, number) for place, number in zip(places, which, strict=True)]
        text = encode_captions(self.pipe, captions)
        pooled = text.states.new_empty(self.size, 0) if text.pooled is None else text.pooled
        indices = torch.tensor(places)
        latents, ids = self.latents.sample(indices, posterior), self.latents.time_ids[indices]
        noise = noise[:1] if self.shared_noise else noise
        alike = torch.stack([torch.tensor([self.numbers[place] for place in places]), _numbered(captions)], 1)
        return latents, noise, time, text.states, pooled, ids, alike

    def part(self, places: Sequence[int]) -> PairBatches:
        """Batches of some of the pairs."""
        return replace(self, pairs=[self.pairs[place] for place in places], latents=self.latents.part(places))

    @functools.cached_property
    def numbers(self) -> list[int]:
        """Of every picture, the same on every process."""
        return [_number(pair.name) for pair in self.pairs]

    def _caption(self, place: int, number: int) -> str:
        captions = self.pairs[place].captions
        return captions[number % len(captions)]


def encode_pairs(pipe: Any, pairs: Sequence[Pair], size: int, *, shows_progress: bool = True) -> Latents:
    """The middle of every picture, ``size`` pixels wide, each read as it is encoded."""

    def found() -> Iterator[View]:
        for pair in tqdm(pairs, desc="encoding", unit="picture", disable=not shows_progress):
            yield views([pair.read()], size)[0]

    return encode_views(pipe, found())


def _numbered(captions: Sequence[str]) -> Tensor:
    """The same number for the same caption, on every process."""
    return torch.tensor([_number(caption) for caption in captions])


def _number(text: str) -> int:
    """63 bits of what ``text`` says."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
