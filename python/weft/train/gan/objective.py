"""What a GAN learns: turns of the discriminator, its penalty and the generator, with losses over pairs of views."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weft.train.core import Player, Turn
from weft.train.distribution import FakeToFake, FakeToReal, distribution_loss, linked, with_negatives
from weft.train.gan.batches import GanBatch
from weft.train.gan.config import DISCRIMINATOR, PENALTY, Weights
from weft.train.gan.drawn import Drawn, Text
from weft.train.gan.games import Game
from weft.train.gan.matching import Matching, Seen
from weft.train.gan.ranks import of_all

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class View:
    """A batch of generated pictures and the captions they are of, the first or the second of each."""

    drawn: Drawn
    text: Text
    caption: int = 0


class GanObjective(nn.Module):
    """Turns of a game between ``generator`` and ``discriminator``.

    Args:
        generator: Noise and text to ``Drawn``.
        game: With the discriminator.
        matching: Frozen; encodes the captions, too.
        players, turns: As ``weft.train.core.loop.fit`` takes them; "penalty" may be missing among the turns.
        weights: Of the generator's losses.
        losses: Of views; those without weight are left out.
        source: Features for those that bring none: "matching", "discriminator", or a callable.
        both_views: Whether the game is played with the second view, too, where there is one.
    """

    def __init__(
        self,
        generator: nn.Module,
        game: Game,
        matching: Matching,
        *,
        players: Mapping[str, Player],
        turns: Sequence[Turn],
        weights: Weights,
        losses: Sequence[FakeToFake | FakeToReal] = (),
        source: str | Features = "matching",
        both_views: bool = True,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, game.discriminator
        self.matching = matching.requires_grad_(False).eval()
        self.game, self.players, self.turns, self.weights = game, players, turns, weights
        self.losses, self.source, self.both_views = [loss for loss in losses if loss.weight], source, both_views
        self.average: dict[str, Tensor] | None = None
        # what the discriminator's turn has drawn, for the generator's turn on the same batch
        self._views: deque[list[View]] = deque()

    def take_average(self, average: dict[str, Tensor]) -> None:
        """The loop's moving average of the generator's parameters, which moves on by itself."""
        self.average = average

    @property
    def pairing(self) -> str | None:
        """What the second view is; None where it is not needed."""
        return next((loss.pairing for loss in self.losses if isinstance(loss, FakeToFake)), None)

    @property
    def _captions(self) -> int:
        """How many captions of each picture are drawn."""
        return 2 if self.pairing == "two_captions" else 1

    def forward(self, turn: str, *batch: Tensor) -> dict[str, Tensor]:
        """The losses of one turn of {"discriminator", "penalty", "generator"} in this order."""
        given = GanBatch(*batch)
        if turn == DISCRIMINATOR:
            self._views.append(self._draw(given))
            return {"loss": self._discriminator_loss(given, self._views[-1])}
        if turn == PENALTY:
            return {"loss": self._penalty(given)}
        return self._generator_losses(given, self._views.popleft())

    def _draw(self, given: GanBatch) -> list[View]:
        """One view of each picture, or two."""
        first, second = given.noise.unbind(1)
        text = self._text(given, 0)
        views = [View(self.generator(first, text), text)]
        if self.pairing == "two_captions":
            text = self._text(given, 1)
            views.append(View(self.generator(first, text), text, 1))
        elif self.pairing == "two_noises":
            views.append(View(self.generator(second, text), text))
        return views

    def _text(self, given: GanBatch, caption: int) -> Text:
        with torch.no_grad():
            return self.matching.text(given.numbers[:, caption])

    def _in_game(self, views: list[View]) -> list[View]:
        return views if self.both_views else views[:1]

    def _discriminator_loss(self, given: GanBatch, views: list[View]) -> Tensor:
        return _mean(
            self.game.discriminator_loss(given.images, view.text, view.drawn.detach()) for view in self._in_game(views)
        )

    def _penalty(self, given: GanBatch) -> Tensor:
        captions = range(self._captions if self.both_views else 1)
        found = [self.game.penalty(given.images, self._text(given, caption)) for caption in captions]
        return _mean(value for value in found if value is not None)

    def _generator_losses(self, given: GanBatch, views: list[View]) -> dict[str, Tensor]:
        played = self._in_game(views)
        total = adversarial = _mean(self.game.generator_loss(view.drawn, view.text) for view in played)
        logged = {"adversarial": adversarial}
        seen: list[Seen] = []
        if self.weights.words or self.weights.sentences:
            seen = [self.matching.look(view.drawn.image) for view in played]
            pairs = [
                self.matching.losses(one, view.text, given.alike[:, view.caption])
                for one, view in zip(seen, played, strict=True)
            ]
            logged["words"], logged["sentences"] = (_mean(values) for values in zip(*pairs, strict=True))
            total = total + self.weights.words * logged["words"] + self.weights.sentences * logged["sentences"]
        divergences = [view.drawn.divergence for view in played if view.drawn.divergence is not None]
        if divergences:
            logged["divergence"] = _mean(divergences)
            total = total + self.weights.divergence * logged["divergence"]
        if self.losses:
            found = self._distribution_losses(given, views, seen)
            total = total + found.pop("loss")
            logged |= found
        return {"loss": total, **{key: value.detach() for key, value in logged.items()}}

    def _distribution_losses(self, given: GanBatch, views: list[View], seen: list[Seen]) -> dict[str, Tensor]:
        """Over the pictures of all processes; 0 of a loss for which the batch has no negatives by chance."""
        images, alike = of_all(given.pictures), linked(of_all(given.alike[:, : self._captions]))
        losses = with_negatives(self.losses, images, alike)
        nothing = dict.fromkeys((loss.name for loss in self.losses), given.images.new_zeros(()))
        if not losses:
            return {"loss": given.images.new_zeros(()), **nothing}
        sources = [loss.features or self.source for loss in losses]
        codes: dict[object, list[Tensor | None]] = {}
        for source in dict.fromkeys(sources):
            look = self._look(source)
            # the matching model has looked at these already
            known = [one.codes for one in seen] if source == "matching" else []
            made = known + [look(view.drawn.images) for view in views[len(known) :]]
            with torch.no_grad():
                of_real = of_all(look((given.images,)))
            codes[source] = [*map(of_all, made), *[None] * (2 - len(made)), of_real]
        first, second, real = (
            None if of_each[0] is None else list(of_each)
            for of_each in zip(*(codes[source] for source in sources), strict=True)
        )
        assert first is not None
        return nothing | distribution_loss(losses, first, second, real, images=images, classes=alike)

    def _look(self, source: str | Features) -> Callable[[tuple[Tensor, ...]], Tensor]:
        """Features of pictures, given at the size of each stage."""
        if source == "matching":
            return self.matching.codes
        if source == "discriminator":
            return self.discriminator.codes  # type: ignore[return-value]
        assert callable(source)
        return lambda images: source(images[-1])


def _mean(values: Iterable[Tensor]) -> Tensor:
    found = list(values)
    return found[0] if len(found) == 1 else torch.stack(found).mean()
