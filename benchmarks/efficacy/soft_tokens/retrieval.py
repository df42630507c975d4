"""Does a denoiser know which of several captions belongs to a picture?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from weft.attach import resolve
from weft.ops import pairwise_error
from weft.shapes.captions import TEMPLATES, phrase
from weft.shapes.rendering import render
from weft.shapes.world import Scene, scene
from weft.train.diffusion import Noising, noising_of


@dataclass(frozen=True)
class Retrieval:
    """Held-out scenes, some at a time, each with its own caption among those of the others.

    Attributes:
        groups: How often.
        captions: Scenes a group.
        objects: In every scene, so that counting them does not distinguish captions.
        times: Of the noise, as shares of the schedule; their errors are added.
        seed: Of the scenes.
    """

    groups: int = 24
    captions: int = 8
    objects: int = 2
    times: tuple[float, ...] = (0.3, 0.5, 0.7)
    seed: int = 4000

    def hits(self, pipe: DiffusionPipeline) -> list[bool]:
        """Of every scene, whether its own caption gives the least error."""
        noising, found = noising_of(resolve(pipe)), []
        for group in tqdm(range(self.groups), desc="retrieval", unit="group", leave=False):
            first = group * self.captions
            scenes = [scene(self.seed, first + i, "test", self.objects) for i in range(self.captions)]
            error = sum(self._errors(pipe, noising, scenes, first, share) for share in self.times)
            assert isinstance(error, Tensor)
            found += (error.argmin(1) == torch.arange(self.captions)).tolist()
        return found

    @torch.no_grad()
    def _errors(
        self, pipe: DiffusionPipeline, noising: Noising, scenes: list[Scene], number: int, share: float
    ) -> Tensor:
        """[scenes, captions]; all scenes of a group have the same noise."""
        count = len(scenes)
        pixels = torch.from_numpy(np.stack([render(one) for one in scenes])).permute(0, 3, 1, 2) / 127.5 - 1
        shift = getattr(pipe.vae.config, "shift_factor", None) or 0.0
        latents = (pipe.vae.encode(pixels).latent_dist.mode() - shift) * pipe.vae.config.scaling_factor
        generator = torch.Generator().manual_seed(number)
        noise = torch.randn(latents[:1].shape, generator=generator).expand_as(latents)
        times = noising.timestep(torch.tensor([int(share * noising.times)])).expand(count)
        noisy, text = (
            noising.noisy(latents, noise, times),
            resolve(pipe).encode_captions([_full_caption(one) for one in scenes]),
        )
        denoiser = resolve(pipe).denoiser
        columns = []
        for states, pooled in zip(text.states, text.states if text.pooled is None else text.pooled, strict=True):
            arguments = {"encoder_hidden_states": states.expand(count, -1, -1), "timestep": times}
            if text.pooled is not None:
                arguments["pooled_projections"] = pooled.expand(count, -1)
            columns.append(denoiser(noisy, **arguments).sample)
        return pairwise_error(torch.stack(columns, 1), noising.target(latents, noise, times))


def _full_caption(one: Scene) -> str:
    return TEMPLATES[len(one.objects)][0].format(*(phrase(item.colour, item.shape) for item in one.objects))
