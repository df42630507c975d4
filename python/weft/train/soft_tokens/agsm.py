"""AGSM's objective: predictions are drawn to where a moving average of the tokens would be guided, and no further."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from weft.attach import TextStates
from weft.methods.soft_tokens import SoftTokens
from weft.ops import bounded_logit, pairwise_error
from weft.train.diffusion import ChunkedGradient
from weft.train.soft_tokens.bank import TokenBank
from weft.train.soft_tokens.captioned_latents import CaptionedLatents
from weft.train.soft_tokens.compared_captions import Compared, contrast, mean_of_any, repeated
from weft.train.soft_tokens.frozen_denoiser import FrozenDenoiser, NoisyPictures
from weft.train.soft_tokens.objective import SoftTokensObjective, part_of


class AgsmObjective(SoftTokensObjective):
    """Every picture with its own caption and K others, under two banks of tokens, each with its average.

        f_0 = f(z, t, own caption, average of bank),   f_k = f(z, t, caption k, average of negative_bank)
        w = softmax_j(-sharpness / 2 * mean (f_j - target)^2),   d_j = f_j - sum_k w_k f_k
        loss = mean (f(z, t, own, bank) - target - gamma_plus d_0)^2
             + mean_k mean (f(z, t, caption k, negative_bank) - target + gamma_minus d_k)^2

    The K are captions of other pictures of the batch, and after them those that are close to its own and wrong.
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

    def losses(self, batch: CaptionedLatents, gradient: ChunkedGradient) -> dict[str, Tensor]:
        """The loss, and what shows whether tokens collapse.

        Returns:
            "loss", its parts "positive" and "negative"; the errors "denoising" of own captions
            and "error_negative" of others; "accuracy" (pictures whose own caption has the least error of the 1 + K)
            and "own_weight" (mean w_0), by the averages; "token_norm" and "token_norm_negative".
        """
        negatives, is_negative = in_batch(batch.alike, self._negatives)
        is_negative = torch.cat([is_negative, batch.is_wrong], 1)
        found: dict[str, list[Tensor]] = {}
        for rows in batch.chunks(self._rows_at_once):
            pictures = self._denoiser.noisy(batch, rows)
            own, others = batch.text(rows), batch.others(rows, negatives[rows])
            valid = F.pad(is_negative[rows], (1, 0), value=True)
            with torch.no_grad():
                plus, minus = self._shown(pictures.time, self.kept())
                predicted = torch.cat([self._predict(plus, pictures, own), self._predict(minus, pictures, others)], 1)
            weights, deviation, error = guidance(predicted, pictures.target, valid, self._sharpness)

            # each pass is differentiated before the next is made: checkpoints run a pass again with what it was shown
            plus, minus = self._shown(pictures.time, gradient.leaves)
            towards = pictures.target[:, None] + self._gamma_plus * deviation[:, :1]
            of_own = self._predict(plus, pictures, own)
            positive = _distance(of_own, towards)[:, 0]
            gradient.add(positive.sum() / len(batch.latents))
            away = pictures.target[:, None] - self._gamma_minus * deviation[:, 1:]
            of_others = self._predict(minus, pictures, others)
            negative = _distance(of_others, away)[is_negative[rows]]
            gradient.add(negative.sum() / is_negative.sum().clamp(min=1))

            for name, value in {
                "positive": positive,
                "negative": negative,
                "denoising": pairwise_error(of_own.detach(), pictures.target),
                "error_negative": pairwise_error(of_others.detach(), pictures.target)[is_negative[rows]],
                "accuracy": (error.masked_fill(~valid, torch.inf).argmin(1) == 0).float(),
                "own_weight": weights[:, 0],
            }.items():
                found.setdefault(name, []).append(value.detach().flatten())
        means = {name: mean_of_any(torch.cat(values)) for name, values in found.items()}
        return {
            "loss": means["positive"] + means["negative"],
            **means,
            "token_norm": self.bank.tokens.detach().norm(dim=-1).mean(),
            "token_norm_negative": self.negative_bank.tokens.detach().norm(dim=-1).mean(),
        }

    def measure(self, batch: CaptionedLatents) -> float:
        """SoftREPA's contrast of the averaged bank, since the own loss has targets that move with the tokens."""
        compared, plus = Compared.of(batch, None), part_of(self.kept(), "bank")
        with torch.no_grad():
            errors = [
                compared.errors(self._denoiser, lambda time: self.bank.shown(time, plus), rows)
                for rows in batch.chunks(self._rows_at_once)
            ]
            return float(contrast(bounded_logit(torch.cat(errors)), compared.own, compared.left_out_here).mean())

    def _shown(self, time: float, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What both banks show at a time, made of ``values``."""
        plus, minus = part_of(values, "bank"), part_of(values, "negative_bank")
        return self.bank.shown(time, plus), self.negative_bank.shown(time, minus)

    def _predict(self, tokens: Tensor, pictures: NoisyPictures, text: TextStates) -> Tensor:
        """Predictions [R, J, C, h, w] of R pictures, each with J captions, which lie together."""
        rows = len(pictures.latents)
        found = self._denoiser.predict(tokens, pictures.each(len(text.states) // rows), text)
        return found.view(rows, -1, *found.shape[1:])


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
    negatives = (rows[:, None] + torch.arange(1, count + 1, device=alike.device)) % len(alike)
    return negatives, ~repeated(alike).gather(1, negatives)


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
    # not as a product of matrices, which autocast would take in half precision
    expected = (weights.view(*weights.shape, *(1,) * (predicted.ndim - 2)) * predicted).sum(1, keepdim=True)
    return weights, predicted - expected, error


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference of every [R, J] of [R, J, ...]."""
    return (found - wanted).square().flatten(2).mean(2)
