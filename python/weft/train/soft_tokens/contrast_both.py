"""The contrast in both directions: each picture against the captions, each caption against the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from weft.train.diffusion import ChunkedGradient
from weft.train.soft_tokens.compared_captions import Compared, contrast
from weft.train.soft_tokens.contrast import ContrastObjective
from weft.train.soft_tokens.objective import part_of


class SymmetricContrastObjective(ContrastObjective):
    """``ContrastObjective`` whose contrast is half that of its rows and half that of its columns.

    A column has pictures of all chunks and processes, so the derivatives of the loss by all errors are found first,
    and each chunk goes on from there. Several chunks cost a pass without gradients more.
    """

    def _differentiated(self, compared: Compared, gradient: ChunkedGradient) -> Tensor:
        chunks = compared.batch.chunks(self._rows_at_once)
        known = None
        if len(chunks) > 1:
            with torch.no_grad():
                known = torch.cat([self._errors(compared, gradient.leaves, rows) for rows in chunks])
            if not gradient.is_wanted:
                return known
        slope = None
        for rows in chunks:
            part = self._errors(compared, gradient.leaves, rows)
            known = part.detach() if known is None else known
            if gradient.is_wanted:
                slope = self._slope(known, compared) if slope is None else slope
                gradient.add((slope[rows] * part).sum())
        assert known is not None
        if part_of(gradient.leaves, "logit"):  # what its constants learn
            gradient.add(self._of_all(_gathered(known, compared.accelerator), compared, gradient.leaves))
        return known

    def _contrast(self, error: Tensor, compared: Compared) -> Tensor:
        whole = _gathered(error, compared.accelerator)
        return both_ways(self.logit(whole), compared.left_out)

    def _slope(self, error: Tensor, compared: Compared) -> Tensor:
        """Derivatives [R, C + J] of the loss by this process's errors."""
        whole = _gathered(error, compared.accelerator).requires_grad_()
        (found,) = torch.autograd.grad(self._of_all(whole, compared, dict(self.named_parameters())), whole)
        # of the mean over all processes, which gradients are averaged over afterwards
        return found[compared.own] * (len(whole) / len(error))

    def _of_all(self, error: Tensor, compared: Compared, values: Mapping[str, Tensor]) -> Tensor:
        contrastive = both_ways(self.logit(error, part_of(values, "logit")), compared.left_out)
        return contrastive + self._denoising_weight * error.diagonal().mean()


def both_ways(logits: Tensor, left_out: Tensor) -> Tensor:
    """The mean contrast of rows [C, C + J] and of the first C columns, whose diagonal are the pairs."""
    count = len(logits)
    own = torch.arange(count, device=logits.device)
    columns = contrast(logits[:, :count].T, own, left_out[:, :count].T)
    return (contrast(logits, own, left_out) + columns).mean() / 2


def _gathered(error: Tensor, accelerator: Any) -> Tensor:
    """The errors of all pictures, [C, C + J], on every process."""
    if accelerator is None or accelerator.num_processes == 1:
        return error.clone()
    return accelerator.gather(error.contiguous())
