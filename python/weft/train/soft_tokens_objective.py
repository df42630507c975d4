"""What the objectives of ``fit_soft_tokens`` have in common: a batch in, losses out, tokens for their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from weft.methods.soft_tokens import SoftTokens
from weft.train.captioned_latents import CaptionedLatents
from weft.train.chunked_gradient import ChunkedGradient
from weft.train.frozen_denoiser import FrozenDenoiser
from weft.train.soft_tokens_bank import TokenBank


class SoftTokensObjective(nn.Module):
    """Base of the objectives. ``forward`` takes the fields of ``CaptionedLatents`` and returns scalars, "loss" first.

    Attributes:
        bank: The tokens that are wanted in the end.
    """

    def __init__(
        self, denoiser: FrozenDenoiser, start: SoftTokens, *, accelerator: Any, rows_at_once: int | None = None
    ) -> None:
        """Tokens begin as ``start``; ``rows_at_once`` pictures come in one pass, None for all."""
        super().__init__()
        self.bank = TokenBank(start)
        self._denoiser = denoiser
        self._accelerator = accelerator
        self._rows_at_once = rows_at_once

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
