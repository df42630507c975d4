"""What the generated views of a batch begin from: noise, a time, and for some losses a second caption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from weft.attach import TextStates
from weft.train.core import shuffled, torch_generator
from weft.train.diffusion import Noising
from weft.train.distribution.config import DistributionConfig
from weft.train.distribution.kinds import Pairing
from weft.train.encoded import PairBatches, pooled_of
from weft.train.pictures import Pair, number_of

_STREAM = 4  # of random numbers, apart from those of the objective, which are as without the losses


class Views(NamedTuple):
    """Of a batch of B pictures.

    Attributes:
        noise: [1 or 2, B, C, h, w]: one where both views have the same, or there is one view.
        drawn: [1] int64, the time of all as ``Noising.timestep`` takes it.
        states: [B or 0, Nk, C], the captions of the second views; none where they have those of the first.
        pooled: [B or 0, Cp]; Cp is 0 where the model takes none.
        captions: [B, 1 or 0] int64, numbers of those captions, as of ``CaptionedLatents.alike``; none where there are
            none, or where all pictures have the same captions.
    """

    noise: Tensor
    drawn: Tensor
    states: Tensor
    pooled: Tensor
    captions: Tensor

    @property
    def views(self) -> int:
        """One view, or two."""
        return 2 if len(self.noise) == 2 or len(self.states) else 1

    def noise_of(self, view: int) -> Tensor:
        """[B, C, h, w]."""
        return self.noise[min(view, len(self.noise) - 1)]

    def text_of(self, view: int, first: TextStates) -> TextStates:
        """The captions of a view, where ``first`` are those of the first."""
        if view == 0 or not len(self.states):
            return first
        return TextStates(self.states, self.pooled if self.pooled.shape[1] else None)


def draw_noise(
    config: DistributionConfig, noising: Noising, shape: tuple[int, ...], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(noise, drawn) of ``Views``, for latents of ``shape`` [B, C, h, w]."""
    noise = torch.randn(2 if config.pairing == "two_noises" else 1, *shape, generator=generator)
    low, high = (round(share * noising.times) for share in config.times)
    return noise, torch.randint(low, max(high, low + 1), (1,), generator=generator)


@dataclass(frozen=True, eq=False)
class ViewBatches:
    """Batches of pairs, and after their fields those of ``Views``.

    Attributes:
        batches: Of pairs.
        config: With losses.
        noising: Of the model.
    """

    batches: PairBatches
    config: DistributionConfig
    noising: Noising

    def __call__(self, samples: int) -> tuple[Tensor, ...]:
        fields, of = self.batches(samples), self.batches
        latents, captions = fields[0], fields[6][:, 1]
        first = samples + of.process * of.size
        generator = torch_generator(of.seed, _STREAM, first)
        noise, drawn = draw_noise(self.config, self.noising, tuple(latents.shape), generator)
        empty = fields[3][:0], fields[4][:0], fields[6][:, :0]
        if self.config.pairing != "two_captions":
            return (*fields, *Views(noise, drawn, *empty))
        count = len(of.pairs)
        places = [shuffled(count, of.seed, *divmod(first + i, count)) for i in range(of.size)]
        numbers = torch.randint(2**31, (of.size,), generator=generator).tolist()
        texts = [
            (place, _another(of.pairs[place], number, int(own)))
            for place, number, own in zip(places, numbers, captions, strict=True)
        ]
        text = of.encoded(texts)
        others = torch.tensor([[number_of(of.pairs[place].captions[number])] for place, number in texts])
        return (*fields, *Views(noise, drawn, text.states, pooled_of(text), others))


@dataclass(frozen=True, eq=False)
class ConceptBatches:
    """Batches of ``latent_batches``, and after their fields those of ``Views``, with captions by their numbers.

    The fields are numbers of pictures [B, 1], noise, drawn, and numbers of second captions [B or 0], from 1 on: 0 is
    the caption of all pictures.

    Attributes:
        batches: Of views of a few pictures.
        config: With losses.
        noising: Of the model.
        views: How many there are.
        of_each: Views of a picture, one after the other.
        captions: How many there are, the one of all among them.
        seed, process: Of ``batches``.
    """

    batches: Callable[[int], tuple[Tensor, ...]]
    config: DistributionConfig
    noising: Noising
    views: int
    of_each: int
    captions: int
    seed: int
    process: int

    def __call__(self, samples: int) -> tuple[Tensor, ...]:
        fields = self.batches(samples)
        size = len(fields[0])
        first = samples + self.process * size
        generator = torch_generator(self.seed, _STREAM, first)
        noise, drawn = draw_noise(self.config, self.noising, tuple(fields[0].shape), generator)
        places = [shuffled(self.views, self.seed, *divmod(first + i, self.views)) for i in range(size)]
        pictures = torch.tensor(places)[:, None] // self.of_each
        is_other = self.config.pairing == "two_captions"
        captions = torch.randint(1, max(self.captions, 2), (size if is_other else 0,), generator=generator)
        return (*fields, pictures, noise, drawn, captions)


def check_captions(pairs: tuple[Pair, ...], pairing: Pairing | None, *, who: str) -> None:
    """Refuse pairs that have no second caption where one is needed.

    Raises:
        ValueError: No picture has several.
    """
    if pairing == "two_captions" and not any(len(set(pair.captions)) > 1 for pair in pairs):
        raise ValueError(
            f"{who}: fake-to-fake of two captions needs pictures with several; none of {len(pairs)} has; give `text` "
            "a list of wordings in metadata.jsonl (or a line each in the text file), or choose pairing='two_noises'"
        )


def _another(pair: Pair, number: int, own: int) -> int:
    """Place of a caption of ``pair`` that is not the one numbered ``own``; of that, if there is no other."""
    others = [place for place, caption in enumerate(pair.captions) if number_of(caption) != own]
    return others[number % len(others)] if others else 0
