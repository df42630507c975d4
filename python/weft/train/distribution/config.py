"""The numbers of the distribution-sensitive losses as a term of a fit, as plain data that the command line reads too.

Losses without ``features`` of their own look through the frozen denoiser (``DenoiserFeatures``), the others at
decoded pictures. Pictures of a batch with a caption in common, in either view, are no negatives of each other,
unless a loss has ``class_mask`` False. Where all have the same captions, as in ``fit_residual``, captions are
ignored, and all different pictures are negatives.

Measure whether it helps before relying on it. Soft tokens of the embedded model, 200 steps of 8 pictures through
x0, bound all objects in 92.6 % of pictures with both losses, in 87.9 % without (difference 4.7 [0.1, 9.3] points)
and in 92.2 % without tokens at all; 4 wordings under one noise agreed no more often than without the losses, at
about 2.5 times the cost of a step; a chain of four steps costs 5.9 times
(``benchmarks.efficacy.distribution_losses``).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import tyro

from weft.train.distribution.kinds import FakeToFake, Features, Loss, Pairing, check_losses

Through = Literal["x0", "chain"]


@dataclass(frozen=True)
class DistributionConfig:
    """What is added to the objective of a fit; nothing without losses."""

    losses: Annotated[tuple[Loss, ...], tyro.conf.Suppress] = ()  # the command line has names, as ``NamedLosses``
    # each counts this times a weight of its own, 0.06 and 0.3 by default. With this the gradient of fake-to-real at
    # the start is about as large as that of soft tokens' objective on the embedded model
    weight: Annotated[float, tyro.conf.arg(name="losses_weight")] = 0.3
    """Weight of all --losses: f2f counts this times --f2f-weight beside the objective, f2r this times --f2r-weight."""
    through: Through = "x0"
    """What --losses compare: x0, clean pictures predicted from noisy ones; chain, pictures drawn from noise alone."""
    # with less the picture shows through, with more it is a guess
    times: Annotated[tuple[float, float], tyro.conf.arg(name="losses_times")] = (0.4, 0.9)
    """With --through x0: noise is drawn between these two shares of the schedule."""
    # DDIM steps, all with gradients, without guidance
    chain_steps: int = 4
    """With --through chain: passes of the model for a picture; more are slower, but need no more memory."""

    @property
    def pairing(self) -> Pairing | None:
        """What the second view is; None where there is one view."""
        return next((loss.pairing for loss in self.losses if isinstance(loss, FakeToFake)), None)

    def check(self, batch_size: int, *, who: str) -> None:
        """Refuse what cannot be meant.

        Args:
            batch_size: Pictures of one pass on one process.
            who: For messages.

        Raises:
            TypeError: Losses of another kind, or no sequence of them.
            ValueError: Two losses of a kind, an option out of range, or too small a batch.
        """
        check_losses(self.losses, who=who, name="distribution.losses")
        if self.losses and batch_size < 2:
            raise ValueError(
                f"{who}: `distribution.losses` need batches of 2 at least, or a picture has no negatives; "
                f"got {batch_size}"
            )
        if self.through not in ("x0", "chain"):
            raise ValueError(f"{who}: `distribution.through` must be 'x0' or 'chain'; got {self.through!r}")
        if type(self.chain_steps) is not int or self.chain_steps < 1:
            raise ValueError(
                f"{who}: `distribution.chain_steps` must be a whole number, at least 1; got {self.chain_steps}"
            )
        if len(self.times) != 2 or not 0 <= self.times[0] < self.times[1] <= 1:
            raise ValueError(
                f"{who}: `distribution.times` must be two shares of the schedule, the lower first; got {self.times}"
            )
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"{who}: `distribution.weight` must not be negative or infinite; got {self.weight}")

    def identity(self) -> dict[str, Any]:
        """What makes this another run; nothing where there are no losses, as in runs that knew of none."""
        if not self.losses:
            return {}
        losses = [{"name": loss.name, **_values(loss), "features": _named(loss.features)} for loss in self.losses]
        return {"distribution": {**_values(self), "losses": losses}}


def _values(one: Any) -> dict[str, Any]:
    return {field.name: getattr(one, field.name) for field in fields(one)}


def _named(features: Features | None) -> str | None:
    """What to call a source of features; that of ``vision_features`` says its folder."""
    if features is None:
        return None
    named = getattr(features, "name", None) or getattr(features, "__qualname__", type(features).__qualname__)
    return str(named)
