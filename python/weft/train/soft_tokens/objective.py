"""What the objectives of ``fit_soft_tokens`` have in common: a batch in, losses out, tokens for their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from weft.attach import TextStates
from weft.methods.soft_tokens import SoftTokens
from weft.train.diffusion import ChunkedGradient
from weft.train.distribution import DistributionTerm, Views
from weft.train.soft_tokens.bank import TokenBank
from weft.train.soft_tokens.captioned_latents import CaptionedLatents
from weft.train.soft_tokens.frozen_denoiser import FrozenDenoiser


class SoftTokensObjective(nn.Module):
    """Base of the objectives.

    Attributes:
        bank: The tokens that are wanted in the end.
        term: What is added to the loss; None for nothing.
    """

    def __init__(
        self, denoiser: FrozenDenoiser, start: SoftTokens, *, accelerator: Any, rows_at_once: int | None = None
    ) -> None:
        """Tokens begin as ``start``; ``rows_at_once`` pictures come in one pass, None for all."""
        super().__init__()
        self.bank = TokenBank(start)
        self.term: DistributionTerm | None = None
        self._denoiser = denoiser
        self._accelerator = accelerator
        self._rows_at_once = rows_at_once

    def forward(self, *parts: Tensor) -> dict[str, Tensor]:
        """The losses of a batch.

        Args:
            parts: Fields of ``CaptionedLatents``; where there is a ``term`` those of ``Views`` after them.

        Returns:
            Scalars: "loss", and what the objective and the term report beside it, without gradient.
        """
        views = None if self.term is None else Views(*parts[-len(Views._fields) :])
        batch = CaptionedLatents(*parts[: len(parts) - (0 if views is None else len(views))])
        gradient = self._gradient()
        found = self.losses(batch, gradient)
        if self.term is not None and views is not None:
            bank = part_of(gradient.leaves, "bank")

            def denoise(latents: Tensor, timestep: Tensor, text: TextStates) -> Tensor:
                return self._denoiser.generate(self.bank.shown(float(timestep), bank), latents, timestep, text)

            leaves = list(gradient.leaves.values())
            more, slopes = self.term(denoise, leaves, batch.latents, batch.text(), batch.alike, views)
            gradient.add_known(slopes)
            found |= more
            found["loss"] = found["loss"] + found["distribution"]
        return {**found, "loss": gradient.total(found["loss"])}

    def losses(self, batch: CaptionedLatents, gradient: ChunkedGradient) -> dict[str, Tensor]:
        """The objective's own scalars, "loss" first; their derivatives are added to ``gradient``."""
        raise NotImplementedError

    def measure(self, batch: CaptionedLatents) -> float:
        """How badly pairs that were not trained on match, by the tokens of ``kept``; on this process alone."""
        raise NotImplementedError

    def kept(self) -> dict[str, Tensor]:
        """What is worth keeping of this moment, by the names of parameters."""
        return dict(self.named_parameters())

    def shown(self, timestep: float) -> Tensor:
        """What pictures drawn meanwhile show: the tokens of ``kept`` at ``timestep``."""
        return self.bank.shown(timestep, part_of(self.kept(), "bank"))

    def take_average(self, average: Mapping[str, Tensor]) -> None:
        """The loop keeps a moving average of the parameters in these very tensors."""

    def learnt(self, values: Mapping[str, Tensor] | None = None) -> SoftTokens:
        """The tokens as they are now, or of ``values``, on the CPU."""
        return self.bank.learnt(None if values is None else part_of(values, "bank"))

    def _gradient(self) -> ChunkedGradient:
        """Of the parameters; nothing yet."""
        scaler = self._accelerator.scaler
        return ChunkedGradient(
            dict(self.named_parameters()), scale=1.0 if scaler is None else float(scaler.get_scale())
        )


def part_of(values: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Those of an objective's parameters that belong to its part of that name, by their names in there."""
    return {name.removeprefix(f"{part}."): value for name, value in values.items() if name.startswith(f"{part}.")}
