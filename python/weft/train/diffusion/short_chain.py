"""Clean latents in a step or a few, and their derivatives, so that memory is that of one pass whatever the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.attach import TextStates
from weft.train.diffusion.noising import Noising

# latents [P, C, h, w] noisy, timestep [1], P captions -> predictions [P, C, h, w] fp32
Denoise = Callable[[Tensor, Tensor, TextStates], Tensor]


@dataclass(frozen=True, eq=False)
class ShortChain:
    """DDIM steps from the first of some times to clean latents.

    Each pass of the denoiser is differentiated before the next is made: what it is shown changes with the time, and
    checkpoints run a pass again with what it is shown then.

    Attributes:
        noising: Of the denoiser.
        drawn: Its times, as ``Noising.timestep`` takes them, [1] each; a single one predicts clean latents at once.

    Source:
        Song et al. 2021, arXiv:2010.02502, equation 12 without noise.
    """

    noising: Noising
    drawn: Sequence[Tensor]

    @torch.no_grad()
    def run(self, denoise: Denoise, noisy: Tensor, text: TextStates) -> list[Tensor]:
        """Latents before every step, and last the clean ones; [P, C, h, w] each, of ``noisy`` at the first time."""
        found = [noisy]
        for number in range(len(self.drawn)):
            found.append(self._step(number, denoise, found[-1], text))
        return found

    def slopes(
        self, denoise: Denoise, states: Sequence[Tensor], text: TextStates, slope: Tensor, leaves: Sequence[Tensor]
    ) -> list[Tensor]:
        """Derivatives by ``leaves``, of which ``denoise`` is made, of what has ``slope`` by the clean latents.

        Args:
            states: As ``run`` gave them.
            slope: [P, C, h, w].
        """
        found = [torch.zeros_like(leaf) for leaf in leaves]
        for number in reversed(range(len(self.drawn))):
            noisy = states[number].detach().requires_grad_(number > 0)
            with torch.enable_grad():
                after = self._step(number, denoise, noisy, text)
            wanted = (*leaves, noisy) if number else tuple(leaves)
            parts = torch.autograd.grad(after, wanted, slope, allow_unused=True)
            for total, part in zip(found, parts, strict=False):
                if part is not None:
                    total += part
            slope = parts[-1] if number else slope
        return found

    def _step(self, number: int, denoise: Denoise, noisy: Tensor, text: TextStates) -> Tensor:
        times = self.noising.timestep(self.drawn[number]).expand(len(noisy))
        clean, noise = self.noising.split(noisy, denoise(noisy, times[:1], text), times)
        if number == len(self.drawn) - 1:
            return clean
        return self.noising.noisy(clean, noise, self.noising.timestep(self.drawn[number + 1]).expand(len(noisy)))
