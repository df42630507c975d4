"""Pictures drawn while a model learns, always from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from weft.methods.sampling import Sampling

__all__ = ["Sampling", "sampling_of", "validation"]


def sampling_of(config: Any, pipe: Any) -> Sampling:
    """What ``config`` recommends, completed by how validation pictures of a run are drawn."""
    recommended: Sampling = config.sampling
    return recommended.completed(num_inference_steps=config.validation_steps, sampler=type(pipe.scheduler).__name__)


def validation(
    pipe: Any,
    prompts: Sequence[str],
    folder: Path,
    *,
    every: int,
    last: int,
    sampler_steps: int,
    seed: int,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Callable[[int], None]:
    """What draws ``prompts`` with the pipeline as it is, to be called after a step.

    Args:
        folder: Gets ``step00050-0.png``, the first prompt after 50 steps.
        every: Steps between pictures.
        last: Step after which they are drawn too.
        options: Further arguments of ``pipe``.
    """

    def draw(step: int) -> None:
        if step % every and step != last:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for number, prompt in enumerate(prompts):
            generator = torch.Generator(pipe.device).manual_seed(seed)
            with torch.no_grad():
                drawn = pipe(prompt, num_inference_steps=sampler_steps, generator=generator, **options).images[0]
            drawn.save(folder / f"step{step:05d}-{number}.png")

    return draw
