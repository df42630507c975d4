"""Batches of pictures and captions for a contrast of every picture with every caption."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from weft.train.diffusion import Latents, encode_captions, encode_views, shuffled
from weft.train.encoded_pairs import StoredLatents, StoredText, open_encoded
from weft.train.images import View, views
from weft.train.pairs import Pair
from weft.train.randomness import torch_generator


@dataclass(frozen=True, eq=False)
class PairBatches:
    """The function from the samples seen to the next batch of a process.

    Every picture comes once an epoch, each time with one of its captions and with other noise.

    Attributes:
        pipe: Encodes the captions, unless there is ``text``.
        latents, text: Of all pairs, in memory or in a folder.
        places: Of ``pairs`` among them.
        size: Pictures in a batch.
        timesteps: Of the training schedule.
        shared_noise, shared_time: One noise, and one time, for all pictures of a batch.
        text_length: As of ``encode_captions``.
        process: Number of this one.
    """

    pipe: Any
    pairs: Sequence[Pair]
    latents: Latents | StoredLatents
    text: StoredText | None
    places: Sequence[int]
    size: int
    timesteps: int
    shared_noise: bool = True
    shared_time: bool = True
    text_length: int | None = None
    seed: int = 0
    process: int = 0

    def __call__(self, samples: int) -> tuple[Tensor, ...]:
        """The arguments of ``SoftTokensObjective.forward``."""
        first, count = samples + self.process * self.size, len(self.pairs)
        places = [shuffled(count, self.seed, *divmod(first + i, count)) for i in range(self.size)]
        generator = torch_generator(self.seed, 2, first)
        posterior, noise = torch.randn(2, self.size, *self.latents.shape, generator=generator)
        time = torch.randint(self.timesteps, (1 if self.shared_time else self.size,), generator=generator)
        which = torch.randint(2**31, (self.size,), generator=generator).tolist()
        pairs = [self.pairs[place] for place in places]
        which = [number % len(pair.captions) for pair, number in zip(pairs, which, strict=True)]
        captions = [pair.captions[number] for pair, number in zip(pairs, which, strict=True)]
        among_all = [self.places[place] for place in places]
        if self.text is None:
            text = encode_captions(self.pipe, captions, self.text_length)
        else:
            text = self.text.part(list(zip(among_all, which, strict=True)))
        pooled = text.states.new_empty(self.size, 0) if text.pooled is None else text.pooled
        drawn = self.latents.part(among_all)
        noise = noise[:1] if self.shared_noise else noise
        alike = torch.stack([torch.tensor([self.numbers[place] for place in places]), _numbered(captions)], 1)
        return drawn.sample(posterior), noise, time, text.states, pooled, drawn.time_ids, alike

    def part(self, places: Sequence[int]) -> PairBatches:
        """Batches of some of the pairs."""
        return replace(
            self,
            pairs=[self.pairs[place] for place in places],
            places=[self.places[place] for place in places],
        )

    @functools.cached_property
    def numbers(self) -> list[int]:
        """Of every picture, the same on every process."""
        return [_number(pair.name) for pair in self.pairs]


def encode(
    pipe: Any,
    pairs: Sequence[Pair],
    size: int,
    folder: str | Path | None,
    *,
    text_length: int | None = None,
    accelerator: Accelerator,
    base_name: str,
    who: str,
) -> tuple[Latents | StoredLatents, StoredText | None]:
    """The middle of every picture, ``size`` pixels wide; in memory, or in ``folder`` as ``open_encoded`` has it."""
    if folder is not None:
        return open_encoded(
            pipe,
            pairs,
            Path(folder),
            size,
            text_length=text_length,
            accelerator=accelerator,
            base_name=base_name,
            who=who,
        )

    def found() -> Iterator[View]:
        shown = tqdm(pairs, desc="encoding", unit="picture", disable=not accelerator.is_local_main_process)
        for pair in shown:
            yield views([pair.read()], size)[0]

    return encode_views(pipe, found()), None


def _numbered(captions: Sequence[str]) -> Tensor:
    """The same number for the same caption, on every process."""
    return torch.tensor([_number(caption) for caption in captions])


def _number(text: str) -> int:
    """63 bits of what ``text`` says."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
