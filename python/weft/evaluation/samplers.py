"""What draws images from captions: a diffusion pipeline, a generator of ``weft.train``, or any callable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from weft.evaluation.planning import Request

Picture = Image.Image | np.ndarray  # RGB; an array is [h, w, 3] uint8
# captions and as many seeds of noise to as many pictures; the same caption and seed draw the same picture
Sampler = Callable[[Sequence[str], Sequence[int]], Sequence[Picture]]


def draw(sampler: Sampler, requests: Sequence[Request], batch_size: int) -> Iterator[Image.Image]:
    """The images asked for, in their order.

    Raises:
        ValueError: The sampler gives another number of pictures than it was asked for.
    """
    for first in range(0, len(requests), batch_size):
        batch = requests[first : first + batch_size]
        drawn = sampler([request.caption for request in batch], [request.noise for request in batch])
        if len(drawn) != len(batch):
            raise ValueError(f"evaluate: the sampler must give {len(batch)} pictures; it gave {len(drawn)}")
        yield from map(as_image, drawn)


def as_image(picture: Picture) -> Image.Image:
    """RGB.

    Raises:
        TypeError: Neither a PIL image nor [h, w, 3] uint8.
    """
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
        what = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise TypeError(f"evaluate: a picture must be a PIL image or an array [h, w, 3] of uint8; got {what}")
    return Image.fromarray(picture)


def pipeline_sampler(pipe: Any, *, steps: int, guidance_scale: float | None = None, **arguments: Any) -> Sampler:
    """Draw with a diffusers pipeline.

    Args:
        pipe: Text to image.
        steps: Of its sampler.
        guidance_scale: The pipeline's own if not given.
        **arguments: Further ones of its call.
    """
    if guidance_scale is not None:
        arguments["guidance_scale"] = guidance_scale

    def sample(captions: Sequence[str], seeds: Sequence[int]) -> Sequence[Picture]:
        # noise is drawn on the processor, so that devices can be compared
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        images: Sequence[Picture] = pipe(
            list(captions), num_inference_steps=steps, generator=generators, **arguments
        ).images
        return images

    return sample


def generator_sampler(generator: Callable[[list[str], Tensor], Tensor], width: int) -> Sampler:
    """Draw with what goes from captions and noise to images in one step.

    Args:
        generator: Captions and noise [B, ``width``] to images [B, 3, h, w] in [-1, 1], such as ``fit_gan`` makes.
        width: Of its noise.
    """

    @torch.no_grad()
    def sample(captions: Sequence[str], seeds: Sequence[int]) -> Sequence[Picture]:
        noise = torch.stack([torch.randn(width, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        images = generator(list(captions), noise).float().cpu()
        levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return list(levels.permute(0, 2, 3, 1).numpy())

    return sample
