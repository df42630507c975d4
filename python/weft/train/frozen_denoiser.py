"""A frozen model as objectives see it: noisy pictures, targets, and what it predicts of them under many captions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from weft.ops import pairwise_error
from weft.train.diffusion import TextStates, denoising_target
from weft.train.soft_tokens_bank import TrainedTokens


class FrozenDenoiser:
    """A UNet whose layers see the tokens of a control."""

    def __init__(self, unet: Any, control: TrainedTokens, scheduler: Any) -> None:
        """``control`` is attached to ``unet``; ``scheduler`` is that of its training."""
        self._unet, self._control, self._scheduler = unet, control, scheduler

    def noisy(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Latents [P, C, h, w] at ``timestep`` [1], in the dtype of the model; ``noise`` [P or 1, C, h, w]."""
        times = timestep.expand(len(latents))
        return self._scheduler.add_noise(latents, noise.expand_as(latents), times).to(self._unet.dtype)

    def target(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the model should predict of them, [P, C, h, w] fp32."""
        return denoising_target(self._scheduler, latents, noise.expand_as(latents), timestep.expand(len(latents)))

    def predict(self, tokens: Tensor, noisy: Tensor, timestep: Tensor, text: TextStates, time_ids: Tensor) -> Tensor:
        """Predictions [P, C, h, w] fp32 of P pictures.

        Args:
            tokens: [m, C], what the layers see after the text.
            noisy: [P, C, h, w]; P is a multiple of the captions.
            timestep: [1].
            text: Captions, each for as many pictures, which lie together: its keys and values are computed once.
            time_ids: [P, 6], read by SDXL alone.
        """
        added = {}
        if text.pooled is not None:
            pooled = text.pooled.repeat_interleave(len(noisy) // len(text.states), 0)
            added["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": time_ids.to(pooled.dtype)}
        with self._control.showing(tokens.to(text.states.dtype)):
            return self._unet(noisy, timestep.expand(len(noisy)), text.states, **added).sample.float()

    def errors(
        self,
        tokens: Tensor,
        latents: Tensor,
        noise: Tensor,
        timestep: Tensor,
        text: TextStates,
        time_ids: Tensor,
    ) -> Tensor:
        """Mean squared errors [R, C] fp32 of R pictures under each of C captions."""
        rows, columns = len(latents), len(text.states)
        noisy = self.noisy(latents, noise, timestep).repeat(columns, 1, 1, 1)
        found = self.predict(tokens, noisy, timestep, text, time_ids.repeat(columns, 1))
        predicted = found.view(columns, rows, *found.shape[1:]).transpose(0, 1)
        return pairwise_error(predicted, self.target(latents, noise, timestep))
