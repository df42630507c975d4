"""What looks at generated latents: the frozen denoiser itself, or anything that looks at decoded pictures."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from weft.attach import Host, TextStates
from weft.train.diffusion import Denoise, Noising, overflows, scaling_of
from weft.train.distribution.kinds import Features

# of the schedule, where the denoiser looks. On the embedded model the features of one picture know those of another
# with the same two objects elsewhere among 60 in 87 of 100 cases, at 0.1 as at 0.3; averages know 48, and those of the
# middle block 24 (chance is 2)
SHARE = 0.3
POWER = 4


class DenoiserFeatures:
    """What a denoiser makes of a picture on its way, wherever in the picture it is.

        f_c = (mean over pixels of max(+-x_c, 0)^4)^(1/4),   x the output of the first up block

    The picture has no noise added and the text is empty. What is being trained must have no part in it, nor in its
    backward pass. A joint attention has no such block: there it is the middle one of all, and pixels are its tokens.

    Source:
        States of a denoiser as features: DIFT (arXiv:2306.03881), there of a later block, for points. The mean of
        powers: GeM (arXiv:1711.02512). Which block, time and power go together was measured on the embedded model.
    """

    def __init__(self, host: Host, denoise: Denoise, noising: Noising, empty: TextStates) -> None:
        """``denoise`` runs the model of ``host``; ``empty`` is one caption that says nothing."""
        self._layer, self._family = host.family.feature_layer(host.model), host.family
        self._denoise, self._noising, self._empty = denoise, noising, empty

    def __call__(self, latents: Tensor) -> Tensor:
        """[P, 2 C'] fp32 of clean latents [P, C, h, w]."""
        count, found = len(latents), []

        def keep(module: Any, args: Any, output: Any) -> None:
            found.append(self._family.feature_map(output))

        timestep = self._noising.timestep(torch.tensor([round(SHARE * self._noising.times)], device=latents.device))
        seen = self._noising.noisy(latents, torch.zeros_like(latents), timestep.expand(count))
        hook = self._layer.register_forward_hook(keep)
        try:
            self._denoise(seen, timestep, self._empty.repeated(count))
        finally:
            hook.remove()
        state = found[0].float()  # [P, C', pixels]
        parts = torch.cat([state.clamp(min=0), (-state).clamp(min=0)], 1)
        # what is nowhere would have an infinite slope
        return parts.pow(POWER).mean(2).clamp(min=1e-12).pow(1 / POWER)


class DecodedPictures:
    """Features of the pictures that latents decode to."""

    def __init__(self, vae: Any, features: Features) -> None:
        """``features`` looks at pictures [P, 3, h, w] in about [-1, 1]. ``vae`` is left as it is."""
        if overflows(vae):
            vae = copy.deepcopy(vae).float()  # in half precision it overflows
        self._vae, self._features = vae, features

    def __call__(self, latents: Tensor) -> Tensor:
        """[P, D] of clean latents [P, C, h, w]."""
        shift, scale = scaling_of(self._vae)
        pictures = self._vae.decode((latents / scale + shift).to(self._vae.dtype)).sample
        return self._features(pictures.float())
