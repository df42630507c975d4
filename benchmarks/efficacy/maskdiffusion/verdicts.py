"""What the reader saw in the images of a trial; a run that is cut short goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline

from benchmarks.efficacy.trials import Sampling, Trial, noise
from weft._files import whole_file
from weft.shapes.captions import Prompt
from weft.shapes.scoring import PromptScore, score

Method = Callable[[Sequence[Prompt]], AbstractContextManager[Any]]  # active while the images of these are made
_THUMBNAIL = 8  # pixels a side, in which images of one prompt are compared


@dataclass
class Verdicts:
    """What the reader saw in the images of one trial, in their order.

    Attributes:
        bound: Every object of the prompt is there in its own colour.
        correct: And nothing else.
        thumbnails: Small copies, [images][8 * 8 * 3] numbers from 0 to 255, where several images share a prompt.
    """

    bound: list[bool]
    correct: list[bool]
    thumbnails: list[list[int]]

    @classmethod
    def none(cls) -> Verdicts:
        return cls([], [], [])

    def shorten(self, images: int) -> None:
        """Forget all but the first so many."""
        for verdicts in (self.bound, self.correct, self.thumbnails):
            del verdicts[images:]

    def add(self, verdict: PromptScore, image: np.ndarray | None) -> None:
        self.bound.append(all(verdict.bound))
        self.correct.append(verdict.correct)
        if image is not None:
            side = image.shape[0] // _THUMBNAIL
            small = image.reshape(_THUMBNAIL, side, _THUMBNAIL, side, 3).mean((1, 3))
            self.thumbnails.append((small * 255).round().astype(int).ravel().tolist())


def draw(
    pipe: DiffusionPipeline,
    trial: Trial,
    sampling: Sampling,
    method: Method | None,
    kept: Path,
    report: Callable[[int], object],
) -> Verdicts:
    """Draw and read the images of a trial; those whose verdicts lie in ``kept`` already are not drawn again.

    Args:
        pipe: The shapes model.
        trial: What to draw.
        sampling: How.
        method: What to attach; None for the stock pipeline.
        kept: JSON file of the verdicts so far, rewritten after every batch.
        report: Called with the number of images that were just finished.
    """
    items = trial.items(sampling.seed)
    verdicts = Verdicts(**json.loads(kept.read_text())) if kept.exists() else Verdicts.none()
    verdicts.shorten(len(items))  # a longer run may have been kept
    report(len(verdicts.bound))
    for first, batch in _batches(items, len(verdicts.bound), sampling.batch):
        with nullcontext() if method is None else method(batch):
            images = pipe(
                [prompt.text for prompt in batch],
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                generator=[noise(sampling.seed, first + i) for i in range(len(batch))],
                output_type="np",
            ).images
        for prompt, image in zip(batch, images, strict=True):
            verdicts.add(score(prompt, image), image if trial.seeds > 1 else None)
        with whole_file(kept) as temporary:
            temporary.write_text(json.dumps(vars(verdicts)))
        report(len(batch))
    return verdicts


def _batches(items: list[Prompt], done: int, size: int) -> Iterator[tuple[int, list[Prompt]]]:
    for first in range(done, len(items), size):
        yield first, items[first : first + size]


def diversity(verdicts: Verdicts, seeds: int) -> list[float]:
    """Per prompt the mean distance between two of its images, root mean square over small copies, 0 to 1."""
    groups = np.asarray(verdicts.thumbnails, dtype=float).reshape(-1, seeds, _THUMBNAIL * _THUMBNAIL * 3) / 255
    distances = np.sqrt(((groups[:, :, None] - groups[:, None]) ** 2).mean(-1))  # [prompts, seeds, seeds]
    return (distances.sum((1, 2)) / (seeds * (seeds - 1))).tolist()
