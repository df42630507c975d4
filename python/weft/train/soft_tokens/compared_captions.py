"""What the pictures of a batch are compared with, how far off the model is under each, and the contrast of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from weft.attach import TextStates
from weft.train.soft_tokens.captioned_latents import CaptionedLatents
from weft.train.soft_tokens.frozen_denoiser import FrozenDenoiser


@dataclass(frozen=True, eq=False)
class Compared:
    """The C captions of all that take part, and the J that are each picture's own close but wrong ones.

    Attributes:
        batch: Of the R pictures of this process.
        text: The C captions.
        own: [R] int64, which is each picture's own.
        left_out: [C, C + J] bool, for the pictures of all: captions of the same picture or that say the same, and
            wrong ones that there are not.
        accelerator: Of those who take part; None where this process measures by itself.
    """

    batch: CaptionedLatents
    text: TextStates
    own: Tensor
    left_out: Tensor
    accelerator: Any

    @classmethod
    def of(cls, batch: CaptionedLatents, accelerator: Any) -> Compared:
        """With the captions of all processes of ``accelerator``, or of ``batch`` alone."""
        count, text, alike, wrong, first = len(batch.latents), batch.text(), batch.alike, batch.is_wrong, 0
        if accelerator is not None and accelerator.num_processes > 1:
            text = text.gathered(accelerator)
            alike, wrong = (accelerator.gather(part.contiguous()) for part in (alike, wrong))
            first = count * accelerator.process_index
        own = torch.arange(first, first + count, device=batch.latents.device)
        return cls(batch, text, own, torch.cat([repeated(alike), ~wrong], 1), accelerator)

    @property
    def left_out_here(self) -> Tensor:
        """For the pictures of this process, [R, C + J]."""
        return self.left_out[self.own]

    def errors(self, denoiser: FrozenDenoiser, tokens_at: Callable[[float], Tensor], rows: Tensor) -> Tensor:
        """Mean squared errors [R', C + J] of some pictures under all captions and their own wrong ones.

        Args:
            tokens_at: From a timestep to the tokens that the layers see.
        """
        pictures = denoiser.noisy(self.batch, rows)
        tokens = tokens_at(pictures.time)
        found = denoiser.errors(tokens, pictures, self.text)
        wrong = self.batch.wrong_text(rows)
        return found if wrong is None else torch.cat([found, denoiser.errors_of_own(tokens, pictures, wrong)], 1)


def repeated(alike: Tensor) -> Tensor:
    """Which captions are no rivals of a picture's own, bool [C, C]: those of the same picture, or that say the same.

    Args:
        alike: [C, 2], numbers of picture and caption.
    """
    return (alike[:, None] == alike).any(-1).fill_diagonal_(False)


def contrast(logits: Tensor, own: Tensor, left_out: Tensor) -> Tensor:
    """-log softmax over columns of each row's own, [R], without those that are left out."""
    return F.cross_entropy(logits.masked_fill(left_out, -torch.inf), own, reduction="none")


def mean_of_any(values: Tensor) -> Tensor:
    """Their mean; 0 of none, as where a batch has no caption that is wrong."""
    return values.sum() / max(values.numel(), 1)
