"""Batches of pictures and captions for a contrast of every picture with every caption."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from weft.attach import Host, TextStates
from weft.train.core import shuffled, torch_generator
from weft.train.diffusion import Latents, encode_views
from weft.train.encoded.pairs import StoredLatents, StoredText, open_encoded
from weft.train.pictures import Pair, View, number_of, views


@dataclass(frozen=True, eq=False)
class PairBatches:
    """The function from the samples seen to the next batch of a process.

    Every picture comes once an epoch, each time with one of its captions and with other noise.

    Attributes:
        host: Encodes the captions, unless there is ``text``.
        latents, text: Of all pairs, in memory or in a folder.
        places: Of ``pairs`` among them.
        size: Pictures in a batch.
        timesteps: Of the training schedule.
        shared_noise, shared_time: One noise, and one time, for all pictures of a batch.
        text_length: As of ``Host.encode_captions``.
        wrong_captions: Of each pair's negatives in a batch, as many as it has.
        process: Number of this one.
    """

    host: Host
    pairs: Sequence[Pair]
    latents: Latents | StoredLatents
    text: StoredText | None
    places: Sequence[int]
    size: int
    timesteps: int
    shared_noise: bool = True
    shared_time: bool = True
    text_length: int | None = None
    wrong_captions: int = 0
    seed: int = 0
    process: int = 0

    def __call__(self, samples: int) -> tuple[Tensor, ...]:
        """The fields of ``CaptionedLatents``."""
        first, count = samples + self.process * self.size, len(self.pairs)
        places = [shuffled(count, self.seed, *divmod(first + i, count)) for i in range(self.size)]
        generator = torch_generator(self.seed, 2, first)
        posterior, noise = torch.randn(2, self.size, *self.latents.shape, generator=generator)
        time = torch.randint(self.timesteps, (1 if self.shared_time else self.size,), generator=generator)
        which = torch.randint(2**31, (self.size,), generator=generator).tolist()
        pairs = [self.pairs[place] for place in places]
        which = [number % len(pair.captions) for pair, number in zip(pairs, which, strict=True)]
        captions = [pair.captions[number] for pair, number in zip(pairs, which, strict=True)]
        text = self.encoded(list(zip(places, which, strict=True)))
        drawn = self.latents.part([self.places[place] for place in places])
        noise = noise[:1] if self.shared_noise else noise
        alike = torch.stack([torch.tensor([self.numbers[place] for place in places]), _numbered(captions)], 1)
        batch = (drawn.sample(posterior), noise, time, text.states, pooled_of(text), drawn.time_ids, alike)
        return (*batch, *self._wrong(places, generator)) if self.wrong_captions else batch

    def _wrong(self, places: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """States and pooled of negatives [B, J, ...] of the pairs at ``places``, and how many each has of them [B]."""
        texts, counts = [], []
        for place in places:
            pair = self.pairs[place]
            order = torch.randperm(len(pair.negatives), generator=generator)[: self.wrong_captions].tolist()
            counts.append(len(order))
            # where it has fewer, its own caption fills their place, and is masked out
            texts += [(place, len(pair.captions) + number) for number in order]
            texts += [(place, 0)] * (self.wrong_captions - len(order))
        encoded = self.encoded(texts)
        sizes = (len(places), self.wrong_captions)
        states, pooled = (part.reshape(*sizes, *part.shape[1:]) for part in (encoded.states, pooled_of(encoded)))
        return states, pooled, torch.tensor(counts)

    def encoded(self, texts: Sequence[tuple[int, int]]) -> TextStates:
        """Texts, each given as the place of its pair and its number in ``Pair.texts``."""
        if self.text is not None:
            return self.text.part([(self.places[place], number) for place, number in texts])
        read = [self.pairs[place].texts[number] for place, number in texts]
        return self.host.encode_captions(read, self.text_length)

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
        # pictures of one name may lie in several folders
        places = (str(pair.image) if isinstance(pair.image, Path) else pair.name for pair in self.pairs)
        return [number_of(place) for place in places]


def encode(
    host: Host,
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
            host,
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

    return encode_views(host.pipeline, found()), None


def pooled_of(text: TextStates) -> Tensor:
    """[texts, 0] where the model takes none."""
    return text.states.new_empty(len(text.states), 0) if text.pooled is None else text.pooled


def _numbered(captions: Sequence[str]) -> Tensor:
    """The same number for the same caption, on every process."""
    return torch.tensor([number_of(caption) for caption in captions])
