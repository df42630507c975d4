"""What ``fit_task_prompts`` minimises: the denoising loss of an inpainting UNet whose task is selected by vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from weft.attach import LearntText, TextStates, encode, resolve, token_count, token_limit
from weft.methods.powerpaint import NAMES, PromptName, Vectors, shortened
from weft.train.diffusion import denoising_target, min_snr_weight
from weft.train.task_prompts.examples import LearntPrompt


class TaskPromptsObjective(nn.Module):
    """The denoising loss of an inpainting UNet; the vectors of the prompts are its parameters, and what asks for
    gradients in the UNet.

    A parameter holds how far the vectors have moved from their start, in units of ``rate``: with an optimizer whose
    steps do not depend on the size of gradients, as AdamW, they move ``rate`` times as fast as everything else.
    """

    unet: Any

    def __init__(
        self,
        pipe: Any,
        scheduler: Any,
        start: Mapping[PromptName, Vectors],
        prompt_of: Callable[[int], LearntPrompt],
        *,
        rate: float = 1.0,
        snr_gamma: float = 0.0,
    ) -> None:
        """``prompt_of`` gives the prompt of a sample by its number; ``snr_gamma`` is of ``min_snr_weight``."""
        super().__init__()
        self._pipe = [pipe]  # in a list: its parts are no parts of the objective
        self.unet = pipe.unet
        self._family = resolve(pipe).family
        self.scheduler: Any = scheduler
        self.rate = rate
        self.snr_gamma = snr_gamma
        self._prompt_of = prompt_of
        self._start = {name: tuple(vector.float() for vector in start[name]) for name in NAMES}
        self.moved = nn.ParameterDict(
            {
                f"{name}_{number}": nn.Parameter(torch.zeros_like(vector))
                for name in NAMES
                for number, vector in enumerate(self._start[name])
            }
        )

    def forward(
        self,
        numbers: Tensor,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        mask: Tensor,
        masked: Tensor,
        time_ids: Tensor,
    ) -> dict[str, Tensor]:
        """Mean squared error of the prediction, over the whole picture; and in the hole alone, for the log.

        Args:
            numbers: [B] int64, of the samples.
            latents: [B, C, h, w] fp32, clean.
            noise: N(0, 1) of the same shape.
            timesteps: [B] int64.
            mask: [B, 1, h, w], 1 in the hole.
            masked: [B, C, h, w], latents of the picture without its hole.
            time_ids: [B, 6], read by SDXL alone.

        Source:
            Zhuang et al. 2024, arXiv:2312.03594, section 3.1; channels in the order of diffusers.
        """
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        states, pooled = self.conditioning([self._prompt_of(int(number)) for number in numbers])
        dtype = self.unet.dtype
        shown, text = torch.cat([noisy, mask, masked], 1).to(dtype), TextStates(states.to(dtype), pooled)
        predicted = self._family.run(self.unet, shown, timesteps, text, time_ids).float()
        target = denoising_target(self.scheduler, latents, noise, timesteps)
        error = (predicted - target).square().mean(1, keepdim=True)
        with torch.no_grad():
            in_hole = (error.detach() * mask).sum() / mask.sum().clamp(min=1)
        weight = min_snr_weight(self.scheduler, timesteps, self.snr_gamma)
        loss = (weight * error.mean((1, 2, 3))).mean()
        # a batch may lack prompts, or have none at all: processes that share gradients wait for all of them
        loss = loss + 0.0 * torch.stack([moved.sum() for moved in self.moved.values()]).sum()
        return {"loss": loss, "in_hole": in_hole}

    def conditioning(self, prompts: list[LearntPrompt]) -> tuple[Tensor, Tensor | None]:
        """States [B, Nk, C] and, for SDXL, pooled [B, Cp]; gradients reach the first prompt of each alone.

        Source:
            Zhuang et al. 2024, arXiv:2312.03594, section 3.2: a shape is mixed with its context after the encoder.
            That the context does not learn from it is in the released code.
        """
        vectors = self.vectors()
        loose = [place for place, one in enumerate(prompts) if one.fit < 1]
        first = encode(self._pipe[0], [self._learnt(one.text, one.prompt, vectors) for one in prompts])
        if not loose:
            return first.states, first.pooled
        with torch.no_grad():
            second = encode(self._pipe[0], [self._learnt(prompts[place].text, "context", vectors) for place in loose])
        fit = torch.tensor([one.fit for one in prompts], device=first.states.device)
        states = _mixed(first.states, second.states, fit, loose)
        if first.pooled is None or second.pooled is None:
            return states, None
        return states, _mixed(first.pooled, second.pooled, fit, loose)

    def vectors(self) -> dict[PromptName, Vectors]:
        """The prompts as they are now."""
        return {
            name: tuple(
                vector.to(moved.device) + self.rate * moved
                for number, vector in enumerate(self._start[name])
                for moved in [self.moved[f"{name}_{number}"]]
            )
            for name in NAMES
        }

    def _learnt(self, text: str, prompt: PromptName | None, vectors: Mapping[PromptName, Vectors]) -> LearntText:
        """A caption and its prompt; the caption is cut rather than the prompt."""
        learnt = () if prompt is None else vectors[prompt]
        limit = token_limit(self._pipe[0], len(learnt[0]) if learnt else 0)
        return LearntText(shortened(text, lambda part: token_count(self._pipe[0], part) <= limit) or "", learnt)


def _mixed(first: Tensor, second: Tensor, fit: Tensor, loose: list[int]) -> Tensor:
    """fit * first + (1 - fit) * second in the rows ``loose``, which ``second`` has; ``first`` elsewhere."""
    other = first.detach().clone()
    other[loose] = second
    weight = fit.view(-1, *[1] * (first.ndim - 1)).to(first.dtype)
    return weight * first + (1 - weight) * other
