"""SoftREPA's objective: every caption of a batch against every picture, by the error of the denoiser."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from weft.methods.soft_tokens import SoftTokens
from weft.ops import bounded_logit
from weft.train.diffusion import ChunkedGradient
from weft.train.soft_tokens.captioned_latents import CaptionedLatents
from weft.train.soft_tokens.compared_captions import Compared, contrast, mean_of_any
from weft.train.soft_tokens.frozen_denoiser import FrozenDenoiser
from weft.train.soft_tokens.objective import SoftTokensObjective, part_of


class Logit(nn.Module):
    """scale * exp(-error / width); where the constants are learnt, it is their logarithms, so they stay above 0.

    Attributes:
        log_scale, log_width: [] fp32; None where they are given.
    """

    def __init__(self, scale: float = 4.0, width: float = 0.07, *, learn: bool = False) -> None:
        super().__init__()
        self._scale, self._width = scale, width
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale))) if learn else None
        self.log_width = nn.Parameter(torch.tensor(math.log(width))) if learn else None

    def forward(self, error: Tensor, values: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits of ``error``, of any shape; ``values`` are used in place of the parameters."""
        return bounded_logit(error, *self.constants(values))

    def constants(self, values: Mapping[str, Tensor] | None = None) -> tuple[float | Tensor, float | Tensor]:
        """Scale and width."""
        values = dict(self.named_parameters()) if values is None else values
        if not values:
            return self._scale, self._width
        return values["log_scale"].exp(), values["log_width"].exp()

    def learnt(self) -> dict[str, Tensor]:
        """The constants by name, where they are learnt."""
        found = zip(("logit_scale", "logit_width"), self.constants(), strict=True)
        return {name: value.detach() for name, value in found if isinstance(value, Tensor)}


class ContrastObjective(SoftTokensObjective):
    """The contrastive loss over a batch of B pictures and their captions.

        e_ij = mean (target_i - f(z_i, t, caption_j, tokens))^2,   l_ij = scale exp(-e_ij / width)
        loss = mean_i -log softmax_j(l_ij)_i + weight * mean_i e_ii

    The B x B evaluations are done economically: a UNet computes a caption's keys and values once for all pictures;
    pictures come in chunks, each with its own backward pass, so that memory is that of a chunk and the result that of
    the whole batch. With several processes the captions of all are columns of each. Captions that are close to a
    picture's own and wrong are further columns of its row alone.

    Source:
        Lee et al. 2025, arXiv:2503.08250, as in its released code, where the constants are given.
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
        learn_logit: bool = False,
    ) -> None:
        super().__init__(denoiser, start, accelerator=accelerator, rows_at_once=rows_at_once)
        self.logit = Logit(logit_scale, logit_width, learn=learn_logit)
        self._denoising_weight = denoising_weight

    def losses(self, batch: CaptionedLatents, gradient: ChunkedGradient) -> dict[str, Tensor]:
        """The loss, and what shows whether tokens collapse.

        Returns:
            "loss", "contrastive", "denoising" (mean e_ii), "error_negative", "accuracy" (rows
            whose own caption has the least error), "token_norm", and the constants of the logit where they are learnt.
        """
        return self._losses(batch, self._accelerator, gradient)

    def measure(self, batch: CaptionedLatents) -> float:
        with torch.no_grad():
            return float(self._losses(batch, None, self._gradient())["loss"])

    def _losses(self, batch: CaptionedLatents, accelerator: Any, gradient: ChunkedGradient) -> dict[str, Tensor]:
        compared = Compared.of(batch, accelerator)
        error = self._differentiated(compared, gradient)
        own, left_out = compared.own, compared.left_out_here
        contrastive = self._contrast(error, compared)
        denoising = error.gather(1, own[:, None]).mean()
        found = {
            "loss": contrastive + self._denoising_weight * denoising,
            "contrastive": contrastive,
            "denoising": denoising,
            "error_negative": mean_of_any(error[~left_out.scatter(1, own[:, None], True)]),
            "accuracy": (error.masked_fill(left_out, torch.inf).argmin(1) == own).float().mean(),
            "token_norm": self.bank.tokens.norm(dim=-1).mean(),
            **self.logit.learnt(),
        }
        return {name: value.detach() for name, value in found.items()}

    def _differentiated(self, compared: Compared, gradient: ChunkedGradient) -> Tensor:
        """Errors [R, C + J] without gradient; the loss that is made of them is differentiated into ``gradient``."""
        errors, count = [], len(compared.own)
        for rows in compared.batch.chunks(self._rows_at_once):
            part, own = self._errors(compared, gradient.leaves, rows), compared.own[rows]
            logits = self.logit(part, part_of(gradient.leaves, "logit"))
            contrastive = contrast(logits, own, compared.left_out[own])
            # a sum over rows: the mean of all is the sum of the chunks'
            rest = self._denoising_weight * part.gather(1, own[:, None])[:, 0]
            gradient.add((contrastive + rest).sum() / count)
            errors.append(part.detach())
        return torch.cat(errors)

    def _contrast(self, error: Tensor, compared: Compared) -> Tensor:
        """The contrastive part of the loss."""
        return contrast(self.logit(error), compared.own, compared.left_out_here).mean()

    def _errors(self, compared: Compared, values: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """Errors of some pictures, with the tokens of ``values``."""
        bank = part_of(values, "bank")
        return compared.errors(self._denoiser, lambda time: self.bank.shown(time, bank), rows)
