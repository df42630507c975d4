"""What is drawn and how it is read: prompts, noise, verdicts; runs that are cut short go on where they stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from weft._files import whole_file
from weft.shapes.captions import Prompt, prompts
from weft.shapes.scoring import PromptScore, score

Method = Callable[[Sequence[Prompt]], AbstractContextManager[Any]]  # active while the images of these are made
_THUMBNAIL = 8  # pixels a side, in which images of one prompt are compared


@dataclass(frozen=True)
class Trial:
    """A list of prompts, each drawn from ``seeds`` noises.

    Attributes:
        name: How the results call it.
        objects: Objects a prompt.
        prompts: How many.
        seeds: Images a prompt.
        held_out: Combinations of colour and shape that training never showed.
    """

    name: str
    objects: int
    prompts: int
    seeds: int = 1
    held_out: bool = True

    def __len__(self) -> int:
        return self.prompts * self.seeds

    def items(self, seed: int) -> list[Prompt]:
        """The prompt of every image; images of one prompt stand together."""
        texts = prompts(self.prompts, self.objects, held_out=self.held_out, seed=seed)
        return [text for text in texts for _ in range(self.seeds)]


@dataclass(frozen=True)
class Sampling:
    """How images are drawn. Image i of a trial depends on ``seed`` and i alone."""

    steps: int = 20
    guidance: float = 4.0
    seed: int = 2000
    batch: int = 32


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


def noise(seed: int, image: int) -> torch.Generator:
    """Where the initial noise of an image comes from."""
    return torch.Generator().manual_seed(seed * 1_000_003 + image)


def diversity(verdicts: Verdicts, seeds: int) -> list[float]:
    """Per prompt the mean distance between two of its images, root mean square over small copies, 0 to 1."""
    groups = np.asarray(verdicts.thumbnails, dtype=float).reshape(-1, seeds, _THUMBNAIL * _THUMBNAIL * 3) / 255
    distances = np.sqrt(((groups[:, :, None] - groups[:, None]) ** 2).mean(-1))  # [prompts, seeds, seeds]
    return (distances.sum((1, 2)) / (seeds * (seeds - 1))).tolist()
