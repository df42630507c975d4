"""The matching model: says how well a caption fits a picture, to the generator and to losses on its features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from weft.train.core import digest_of_weights
from weft.train.gan.batches import GanBatch
from weft.train.gan.config import Gammas
from weft.train.gan.drawn import Text
from weft.train.gan.matching_losses import sentence_loss, words_loss
from weft.train.gan.ranks import of_all


class Seen(NamedTuple):
    """Pictures as the matching model sees them: regions [B, R, W], codes [B, W]."""

    regions: Tensor
    codes: Tensor


class Matching(nn.Module):
    """Encoders of text and pictures to one space.

    Args:
        text: Captions, as numbers, to words and sentences.
        images: Pictures to regions and codes.
    """

    def __init__(self, text: nn.Module, images: nn.Module, gammas: Gammas) -> None:
        super().__init__()
        self.text, self.images, self.gammas = text, images, gammas

    @property
    def taught_by(self) -> list[str]:
        """Digests of the frozen encoders that the user gave."""
        encoders = [getattr(side, "model", None) for side in (self.text, self.images)]
        return [digest_of_weights([model]) for model in encoders if model is not None]

    def look(self, images: Tensor) -> Seen:
        """Pictures [B, 3, h, w] in [-1, 1]."""
        return Seen(*self.images(images))

    def losses(self, seen: Seen, text: Text, alike: Tensor) -> tuple[Tensor, Tensor]:
        """By words and by sentences, of pictures and captions of all processes.

        Args:
            alike: Ids [B], equal where a caption fits another's picture too.
        """
        everything = (*seen, text.words, text.sentence, text.padding, alike)
        regions, codes, words, sentences, padding, alike = (of_all(part) for part in everything)
        by_words = words_loss(
            regions.float(),
            Text(words.float(), sentences, padding),
            alike,
            attention=self.gammas.attention,
            sharpness=self.gammas.words,
            temperature=1 / self.gammas.pairs,
        )
        return by_words, sentence_loss(codes, sentences.to(codes.dtype), alike, temperature=1 / self.gammas.pairs)

    def codes(self, images: tuple[Tensor, ...]) -> Tensor:
        """Features of pictures as a source for losses, [B, W]; of stages the largest."""
        return self.look(images[-1]).codes


class MatchingObjective(nn.Module):
    """What the matching model learns: words and regions, sentences and pictures."""

    def __init__(self, matching: Matching) -> None:
        super().__init__()
        self.matching = matching

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        given = GanBatch(*batch)
        # dropout is drawn from what the batch says, so that a resumed run has that of a straight one
        devices = [given.images.device] if given.images.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(given.seed))
            text = self.matching.text(given.numbers[:, 0])
        seen = self.matching.look(given.images)
        by_words, by_sentences = self.matching.losses(seen, text, given.alike[:, 0])
        nearest = (of_all(seen.codes) @ of_all(text.sentence).T).argmax(1)
        right = nearest == torch.arange(len(nearest), device=nearest.device)
        return {
            "loss": by_words + by_sentences,
            "words": by_words.detach(),
            "sentences": by_sentences.detach(),
            "accuracy": right.float().mean(),
        }
