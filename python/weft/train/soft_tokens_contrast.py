"""SoftREPA's objective: every caption of a batch against every picture, by the error of the denoiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from weft.methods.soft_tokens import SoftTokens
from weft.ops import bounded_logit
from weft.train.chunked_gradient import ChunkedGradient
from weft.train.frozen_denoiser import FrozenDenoiser
from weft.train.soft_tokens_objective import CaptionedLatents, SoftTokensObjective


class ContrastObjective(SoftTokensObjective):
    """The contrastive loss over a batch of B pictures and their captions.

        e_ij = mean (target_i - f(z_i, t, caption_j, tokens))^2,   l_ij = scale exp(-e_ij / width)
        loss = mean_i -log softmax_j(l_ij)_i + weight * mean_i e_ii

    The B x B evaluations are done economically: a caption's keys and values are computed once for all pictures;
    pictures come in chunks, each with its own backward pass, so that memory is that of a chunk and the result that of
    the whole batch. With several processes the captions of all are columns of each.

    Source:
        Lee et al. 2025, arXiv:2503.08250, as in its released code.
    """

    def __init__(
        self,
        denoiser: FrozenDenoiser,
        start: SoftTokens,
        *,
        accelerator: Any,
        rows_at_once: int | None = None,
        denoising_weight: float = 10.0,
        logit_scale: float = 4.0,
        logit_width: float = 0.07,
    ) -> None:
        super().__init__(denoiser, start, accelerator=accelerator, rows_at_once=rows_at_once)
        self._denoising_weight = denoising_weight
        self._logit = {"scale": logit_scale, "width": logit_width}

    def forward(self, *parts: Tensor) -> dict[str, Tensor]:
        """The loss, and what tells whether tokens collapse.

        Args:
            parts: Fields of ``CaptionedLatents``.

        Returns:
            "loss", and without gradient "contrastive", "denoising" (mean e_ii), "error_negative", "accuracy" (rows
            whose own caption has the least error), "token_norm".
        """
        return self._losses(CaptionedLatents(*parts), is_alone=False)

    def measure(self, batch: CaptionedLatents) -> float:
        with torch.no_grad():
            return float(self._losses(batch, is_alone=True)["loss"])

    def _losses(self, batch: CaptionedLatents, *, is_alone: bool) -> dict[str, Tensor]:
        count = len(batch.latents)
        first = 0 if is_alone else count * self._accelerator.process_index
        own = torch.arange(first, first + count, device=batch.latents.device)
        text, alike = batch.text(), batch.alike
        if self._accelerator.num_processes > 1 and not is_alone:
            text, alike = text.gathered(self._accelerator), self._accelerator.gather(alike)
        twice = repeated(alike, own)
        shown = self.bank.shown(float(batch.timestep))
        gradient, errors = ChunkedGradient(shown, scale=self._loss_scale()), []
        for rows in batch.chunks(self._rows_at_once):
            part = self._denoiser.errors(
                gradient.leaves[0],
                batch.latents[rows],
                batch.noise_of(rows),
                batch.timestep,
                text,
                batch.time_ids[rows],
            )
            # a sum over rows: the mean of all is the sum of the chunks'
            gradient.add(self._by_row(part, own[rows], twice[rows])[0].sum() / count)
            errors.append(part.detach())
        error = torch.cat(errors)
        loss, contrastive, positive = (value.mean() for value in self._by_row(error, own, twice))
        return {
            "loss": gradient.total(loss),
            "contrastive": contrastive,
            "denoising": positive,
            "error_negative": error[~twice.scatter(1, own[:, None], True)].mean(),
            "accuracy": (error.masked_fill(twice, torch.inf).argmin(1) == own).float().mean(),
            "token_norm": shown.detach().norm(dim=1).mean(),
        }

    def _by_row(self, error: Tensor, own: Tensor, twice: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of every row, [R] each: the whole, its contrastive part, and the error of its own caption."""
        contrastive = contrast(bounded_logit(error, **self._logit), own, twice)
        positive = error.gather(1, own[:, None])[:, 0]
        return contrastive + self._denoising_weight * positive, contrastive, positive


def repeated(alike: Tensor, own: Tensor) -> Tensor:
    """Which captions are no rivals of a picture's own, bool [R, C]: those of the same picture, or that say the same.

    Args:
        alike: [C, 2], numbers of picture and caption.
        own: [R], the columns of the pictures' own captions.
    """
    twice = (alike[own, None] == alike).any(-1)
    return twice.scatter(1, own[:, None], False)


def contrast(logits: Tensor, own: Tensor, twice: Tensor) -> Tensor:
    """-log softmax over captions of each picture's own, [R], without those that are the same to it."""
    return F.cross_entropy(logits.masked_fill(twice, -torch.inf), own, reduction="none")
