"""Pictures of a list of prompts, kept as they are drawn, so that a run that is cut short goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline

from benchmarks.efficacy.trials import Sampling, noise
from weft._files import whole_file
from weft.shapes.captions import Prompt

Added = Callable[[int], AbstractContextManager[Any]]  # what is added to the model for a batch, by its first picture


def keep(
    count: int, batch: int, make: Callable[[range], np.ndarray], kept: Path, report: Callable[[int], object]
) -> np.ndarray:
    """Make pictures batch by batch; those that lie in ``kept`` already are not made again.

    Args:
        count: How many.
        batch: At once.
        make: Pictures [n, h, w, 3] uint8 of a range of numbers, the same whatever was made before.
        kept: .npy file of the pictures so far, rewritten every 32 pictures or so.
        report: Called with the number of pictures that were just finished.

    Returns:
        [count, h, w, 3] uint8.
    """
    images = list(np.load(kept)[:count]) if kept.exists() else []
    report(len(images))
    for first in range(len(images), count, batch):
        made = make(range(first, min(first + batch, count)))
        images += list(made)
        report(len(made))
        if first % _KEEP_EVERY < batch or len(images) == count:
            with whole_file(kept) as temporary, temporary.open("wb") as file:
                np.save(file, np.stack(images))
    return np.stack(images)


def draw(
    pipe: DiffusionPipeline,
    prompts: Sequence[Prompt],
    added: Added,
    sampling: Sampling,
    kept: Path,
    report: Callable[[int], object],
    **arguments: Any,
) -> np.ndarray:
    """Draw a picture of each prompt; those that lie in ``kept`` already are not drawn again.

    Args:
        pipe: The shapes model.
        prompts: One a picture.
        added: Active while the pictures of a batch are drawn.
        sampling: How. The noise of picture i depends on the seed and i alone.
        kept, report: As of ``keep``.
        **arguments: Further ones of the pipeline.

    Returns:
        [pictures, h, w, 3] uint8.
    """

    def make(numbers: range) -> np.ndarray:
        with added(numbers.start):
            drawn = pipe(
                [prompts[number].text for number in numbers],
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                generator=[noise(sampling.seed, number) for number in numbers],
                output_type="np",
                **arguments,
            ).images
        return (drawn * 255).round().astype(np.uint8)

    return keep(len(prompts), sampling.batch, make, kept, report)


_KEEP_EVERY = 32  # pictures
