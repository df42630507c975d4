"""AGSM's objective: predictions are drawn to where a moving average of the tokens would be guided, and no further."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from weft.methods.soft_tokens import SoftTokens
from weft.ops import bounded_logit, pairwise_error
from weft.train.chunked_gradient import ChunkedGradient
from weft.train.frozen_denoiser import FrozenDenoiser
from weft.train.soft_tokens_bank import TokenBank
from weft.train.soft_tokens_contrast import contrast, repeated
from weft.train.soft_tokens_objective import CaptionedLatents, SoftTokensObjective, of_bank


class AgsmObjective(SoftTokensObjective):
    """Every picture with its own caption and those of K others, under two banks of tokens, each with its average.

        f_0 = f(z, t, own caption, average of bank),   f_k = f(z, t, caption k, average of negative_bank)
        w = softmax_j(-sharpness / 2 * mean (f_j - target)^2),   d_j = f_j - sum_k w_k f_k
        loss = mean (f(z, t, own, bank) - target - gamma_plus d_0)^2
             + mean_k mean (f(z, t, caption k, negative_bank) - target + gamma_minus d_k)^2

    Targets have no gradient, so no caption is pushed away without bound. A step takes B (1 + K) evaluations with
    gradients and as many without; chunks of pictures have their own backward passes, of the own caption and of the
    others apart, so that memory is that of K captions of a chunk. Each process has its own batch.

    The errors are means over a latent. The two terms are of different parameters, so AdamW makes nothing of their
    relative weight.

    Attributes:
        bank: Sees the pictures' own captions; what is shown when drawing, in both rows of guidance.
        negative_bank: Sees the others; of use in training alone.

    Source:
        arXiv:2605.30038. Its schedules A(t), here ``sharpness``, and of the guidance, here 1, are not published.
    """

    def __init__(
        self,
        denoiser: FrozenDenoiser,
        start: SoftTokens,
        *,
        accelerator: Any,
        rows_at_once: int | None = None,
        negatives: int = 3,
        gamma_plus: float = 1.0,
        gamma_minus: float = 1.0,
        sharpness: float = 1.0,
    ) -> None:
        super().__init__(denoiser, start, accelerator=accelerator, rows_at_once=rows_at_once)
        self.negative_bank = TokenBank(start)
        self._negatives, self._sharpness = negatives, sharpness
        self._gamma_plus, self._gamma_minus = gamma_plus, gamma_minus
        self._average: Mapping[str, Tensor] | None = None

    def take_average(self, average: Mapping[str, Tensor]) -> None:
        self._average = average

    def kept(self) -> dict[str, Tensor]:
        return dict(self.named_parameters()) if self._average is None else dict(self._average)

    def forward(self, *parts: Tensor) -> dict[str, Tensor]:
        """The loss, and what tells whether tokens collapse.

        Args:
            parts: Fields of ``CaptionedLatents``.

        Returns:
            "loss", and without gradient its parts "positive" and "negative"; the errors "denoising" of own captions
            and "error_negative" of others; "accuracy" (pictures whose own caption has the least error of the 1 + K)
            and "own_weight" (mean w_0), by the averages; "token_norm" and "token_norm_negative".
        """
        batch = CaptionedLatents(*parts)
        time = float(batch.timestep)
        shown = (self.bank.shown(time), self.negative_bank.shown(time))
        average = [part.detach() for part in self._averages(time)]
        rivals, is_rival = in_batch(batch.alike, self._negatives)
        gradient = ChunkedGradient(*shown, scale=self._loss_scale())
        found: dict[str, list[Tensor]] = {}
        for rows in batch.chunks(self._rows_at_once):
            target = self._denoiser.target(batch.latents[rows], batch.noise_of(rows), batch.timestep)
            valid = torch.cat([torch.ones_like(is_rival[rows, :1]), is_rival[rows]], 1)
            with torch.no_grad():
                predicted = torch.cat(
                    [self._own(average[0], batch, rows), self._others(average[1], batch, rows, rivals)], 1
                )
            weights, deviation, error = guidance(predicted, target, valid, self._sharpness)

            # each pass is differentiated before the next is made: checkpoints run a pass again with what it was shown
            own = self._own(gradient.leaves[0], batch, rows)
            positive = _distance(own, target[:, None] + self._gamma_plus * deviation[:, :1])
            gradient.add(positive.sum() / len(batch.latents))
            others = self._others(gradient.leaves[1], batch, rows, rivals)
            negative = _distance(others, target[:, None] - self._gamma_minus * deviation[:, 1:])
            negative = negative.masked_fill(~is_rival[rows], 0.0)
            gradient.add(negative.sum() / is_rival.sum().clamp(min=1))

            for name, value in {
                "positive": positive,
                "negative": negative,
                "own": pairwise_error(own.detach(), target),
                "others": pairwise_error(others.detach(), target).masked_fill(~is_rival[rows], 0.0),
                "hit": error.masked_fill(~valid, torch.inf).argmin(1) == 0,
                "own_weight": weights[:, 0],
            }.items():
                found.setdefault(name, []).append(value.detach().float())
        of = {name: torch.cat(values) for name, values in found.items()}
        pairs = is_rival.sum().clamp(min=1)
        positive, negative = of["positive"].mean(), of["negative"].sum() / pairs
        return {
            "loss": gradient.total(positive + negative),
            "positive": positive,
            "negative": negative,
            "denoising": of["own"].mean(),
            "error_negative": of["others"].sum() / pairs,
            "accuracy": of["hit"].mean(),
            "own_weight": of["own_weight"].mean(),
            "token_norm": shown[0].detach().norm(dim=1).mean(),
            "token_norm_negative": shown[1].detach().norm(dim=1).mean(),
        }

    def measure(self, batch: CaptionedLatents) -> float:
        """SoftREPA's contrast of the averaged bank, since the own loss has targets that move with the tokens."""
        own = torch.arange(len(batch.latents), device=batch.latents.device)
        twice, text = repeated(batch.alike, own), batch.text()
        with torch.no_grad():
            shown = self._averages(float(batch.timestep))[0]
            errors = [
                self._denoiser.errors(
                    shown, batch.latents[rows], batch.noise_of(rows), batch.timestep, text, batch.time_ids[rows]
                )
                for rows in batch.chunks(self._rows_at_once)
            ]
            return float(contrast(bounded_logit(torch.cat(errors)), own, twice).mean())

    def _averages(self, time: float) -> tuple[Tensor, Tensor]:
        """What the averages of both banks show; the banks themselves where the loop keeps none."""
        if self._average is None:
            return self.bank.shown(time), self.negative_bank.shown(time)
        plus, minus = of_bank(self._average, "bank"), of_bank(self._average, "negative_bank")
        return self.bank.shown(time, plus), self.negative_bank.shown(time, minus)

    def _own(self, tokens: Tensor, batch: CaptionedLatents, rows: Tensor) -> Tensor:
        """Predictions [R, 1, C, h, w] of pictures with their own captions."""
        return self._predict(tokens, batch, rows, rows[:, None])

    def _others(self, tokens: Tensor, batch: CaptionedLatents, rows: Tensor, rivals: Tensor) -> Tensor:
        """Predictions [R, K, C, h, w] of pictures with the captions of others."""
        return self._predict(tokens, batch, rows, rivals[rows])

    def _predict(self, tokens: Tensor, batch: CaptionedLatents, rows: Tensor, captions: Tensor) -> Tensor:
        """Predictions [R, J, C, h, w] of pictures ``rows`` [R] with their ``captions`` [R, J]."""
        noisy = self._denoiser.noisy(batch.latents[rows], batch.noise_of(rows), batch.timestep)
        times = captions.shape[1]
        found = self._denoiser.predict(
            tokens,
            noisy.repeat_interleave(times, 0),
            batch.timestep,
            batch.text(captions.flatten()),
            batch.time_ids[rows].repeat_interleave(times, 0),
        )
        return found.view(*captions.shape, *found.shape[1:])


def in_batch(alike: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """For every picture the captions of the next ``count`` of its batch, and which of them are not its own.

    A batch is shuffled, so those who follow are as good as any.

    Args:
        alike: [B, 2], numbers of picture and caption.
        count: K, less than B.

    Returns:
        [B, K] int64, and [B, K] bool: False for a caption of the same picture, or one that says the same.
    """
    rows = torch.arange(len(alike), device=alike.device)
    rivals = (rows[:, None] + torch.arange(1, count + 1, device=alike.device)) % len(alike)
    return rivals, ~repeated(alike, rows).gather(1, rivals)


def guidance(predicted: Tensor, target: Tensor, valid: Tensor, sharpness: float) -> tuple[Tensor, Tensor, Tensor]:
    """How far each prediction lies from what all of them expect together.

    Args:
        predicted: [R, J, ...] of R pictures under J captions each.
        target: [R, ...].
        valid: [R, J] bool; a caption that is not takes no part.
        sharpness: A of -A / 2 * error, the logarithm of a caption's weight.

    Returns:
        Weights [R, J], f_j - sum_k w_k f_k [R, J, ...], and mean squared errors [R, J].
    """
    error = pairwise_error(predicted, target)
    weights = (-sharpness / 2 * error).masked_fill(~valid, -torch.inf).softmax(1)
    expected = torch.einsum("rj,rj...->r...", weights, predicted)
    return weights, predicted - expected[:, None], error


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference of every [R, J] of [R, J, ...]."""
    return (found - wanted).square().flatten(2).mean(2)
