"""One call of a pipeline with a branch beside its UNet: what the branch is given, and what of it is used again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.attach import DenoiserCall, Step
from weft.methods.inpainting import Convention
from weft.methods.powerpaint.network import Branch

Rows = tuple[int, int, int]  # of a pass: how many, and from where to where they carry the prompt


@dataclass(frozen=True)
class Schedule:
    """At which steps a branch takes part, and at which of them it is computed.

    Attributes:
        reuse: It is computed at every n-th step; the steps between take what it found last.
        start, until: The first step, and the first one without it again; None for no end.
        scale: Of what it adds.
    """

    reuse: int = 1
    start: int = 0
    until: int | None = None
    scale: float = 1.0

    def takes_part(self, index: int) -> bool:
        """At step ``index``."""
        return self.start <= index and (self.until is None or index < self.until)


class BranchRun:
    """One call of a pipeline."""

    def __init__(
        self,
        network: Branch,
        convention: Convention,
        shown: tuple[Tensor, Tensor],
        texts: tuple[Tensor, Tensor],
        *,
        who: str,
    ) -> None:
        """
        Args:
            shown: Latents of the masked pictures [n, 4, h, w], and their holes [n, 1, h, w].
            texts: What rows with the prompt get as text, and the others, [texts, Nk, C] each.
        """
        self._network = network
        self._convention = convention
        self._shown = shown
        self._texts = texts
        self._who = who
        self._text: tuple[Rows, Tensor] | None = None
        self._found: tuple[Rows, int, Sequence[Tensor]] | None = None

    def residuals(self, schedule: Schedule, call: DenoiserCall, step: Step) -> Sequence[Tensor] | None:
        """What the branch adds in a pass; None where it takes no part."""
        if not schedule.takes_part(step.index):
            self._found = None
            return None
        conditional = step.conditional
        rows = (step.batch, conditional.start, conditional.stop)
        if schedule.reuse > 1 and self._found is not None:
            known, index, found = self._found
            if known == rows and index <= step.index < index + schedule.reuse:
                return found
        found = self._network(self._inputs(call.sample), call.timestep, self._text_of_rows(rows))
        if schedule.scale != 1:
            found = [residual * schedule.scale for residual in found]
        self._found = (rows, step.index, found) if schedule.reuse > 1 else None
        return found

    def _inputs(self, sample: Tensor) -> Tensor:
        """[B, 9, h, w] of the noisy latents."""
        masked, hole = self._shown
        if len(sample) % len(masked) or sample.shape[-2:] != masked.shape[-2:]:
            raise ValueError(
                f"{self._who}: {len(masked)} pictures of {list(masked.shape[-2:])} cells do not fit the latents "
                f"{list(sample.shape)}; give as many pictures as texts, or one, in the size that is made"
            )
        # the rows of every half of guidance are the pictures in their order, as the pipeline repeats them
        copies = (len(sample) // len(masked), 1, 1, 1)
        noisy, masked, hole = (x.to(self._network.dtype) for x in (sample, masked, hole))
        return self._convention.joined(noisy, masked.repeat(copies), hole.repeat(copies))

    def _text_of_rows(self, rows: Rows) -> Tensor:
        """The text of every row; the same tensor as long as rows stay, so that its keys and values stay known."""
        if self._text is None or self._text[0] != rows:
            batch, start, stop = rows
            images = stop - start or batch  # a pass of its own for the rows without the prompt
            positive, negative = (self._of_images(text, images) for text in self._texts)
            others = negative.repeat(batch // images, 1, 1)
            text = torch.cat([others[:start], positive[: stop - start], others[: batch - stop]])
            self._text = (rows, text.to(self._network.device, self._network.dtype))
        return self._text[1]

    def _of_images(self, texts: Tensor, images: int) -> Tensor:
        if images % len(texts):
            raise ValueError(
                f"{self._who}: {len(texts)} tasks do not fit {images} images; give one, or one for each text"
            )
        return texts.repeat_interleave(images // len(texts), dim=0)
