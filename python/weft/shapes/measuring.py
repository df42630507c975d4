"""Rates with their uncertainty: how exact the reader is, and how often a pipeline shows what it was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from .captions import Prompt
from .reader import Picture, read
from .rendering import render
from .scoring import PromptScore, score
from .world import Scene, scene

Report = Callable[[int], object]  # called with the number of images just finished


@dataclass(frozen=True)
class Rate:
    """``hits`` of ``total``, with the 95 % Wilson interval [low, high] of the underlying probability."""

    hits: int
    total: int
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Rate:
        """Count the true outcomes; at least one outcome is needed."""
        values = [bool(outcome) for outcome in outcomes]
        if not values:
            raise ValueError("Rate.of: needs at least one outcome")
        hits, total = sum(values), len(values)
        return cls(hits, total, hits / total, *wilson(hits, total))

    def __str__(self) -> str:
        return f"{100 * self.value:5.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] of {self.total}"


def wilson(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Score interval of a binomial probability.

    Source:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    p = hits / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Quality:
    """Share of images that pass each demand; see ``PromptScore`` for their meaning."""

    correct: Rate
    present: Rate
    bound: Rate  # of objects, not images
    related: Rate | None  # of relation words; None when no prompt has one
    without_extras: Rate

    @classmethod
    def of(cls, scores: list[PromptScore]) -> Quality:
        """Summarise the scores of many images."""
        relations = [holds for item in scores for holds in item.relations]
        return cls(
            correct=Rate.of(item.correct for item in scores),
            present=Rate.of(item.present for item in scores),
            bound=Rate.of(holds for item in scores for holds in item.bound),
            related=Rate.of(relations) if relations else None,
            without_extras=Rate.of(item.extras == 0 for item in scores),
        )

    def as_dict(self) -> dict[str, dict[str, float] | None]:
        """For JSON."""
        return asdict(self)


def generate(
    pipe: DiffusionPipeline,
    prompts: list[Prompt],
    guidance: float,
    steps: int = 25,
    seed: int = 0,
    batch_size: int = 32,
    **options: Any,
) -> Iterator[np.ndarray]:
    """One image a prompt, [64, 64, 3] float32 in [0, 1]; ``options`` are further arguments of the pipeline's call.

    Image i starts from noise that only depends on ``seed`` and i, so two runs can be compared image by image.
    """
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + first + i) for i in range(len(batch))]
        yield from pipe(
            [prompt.text for prompt in batch],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            output_type="np",
            **options,
        ).images


def quality(
    pipe: DiffusionPipeline,
    prompts: list[Prompt],
    guidance: float,
    steps: int = 25,
    seed: int = 0,
    batch_size: int = 32,
    report: Report = lambda images: None,
    **options: Any,
) -> Quality:
    """Generate one image a prompt, as ``generate`` does, and score all of them."""
    scores = []
    images = generate(pipe, prompts, guidance, steps, seed, batch_size, **options)
    for prompt, image in zip(prompts, images, strict=True):
        scores.append(score(prompt, image))
        report(1)
    return Quality.of(scores)


def reads_exactly(drawn: Scene, image: Picture) -> bool:
    """Whether the reader finds just the objects of a scene, each within two pixels of its place."""
    found = read(image)
    if len(found) != len(drawn.objects):
        return False
    return all(
        any(item.pair == own.pair and math.hypot(item.x - own.x, item.y - own.y) < 2.0 for item in found)
        for own in drawn.objects
    )


def mixed_scenes(n: int, seed: int) -> list[Scene]:
    """Scenes of both splits in turn."""
    return [scene(seed, i, "test" if i % 2 else "train") for i in range(n)]


def reader_accuracy(scenes: list[Scene], report: Report = lambda images: None) -> Rate:
    """How often a rendered scene is read without any error."""

    def outcomes() -> Iterator[bool]:
        for drawn in scenes:
            yield reads_exactly(drawn, render(drawn))
            report(1)

    return Rate.of(outcomes())


@torch.no_grad()
def decoded_reader_accuracy(
    vae: AutoencoderKL, scenes: list[Scene], batch_size: int = 32, report: Report = lambda images: None
) -> Rate:
    """How often a scene is read without any error after the autoencoder has coded and decoded it."""
    outcomes = []
    for first in range(0, len(scenes), batch_size):
        batch = scenes[first : first + batch_size]
        pixels = torch.from_numpy(np.stack([render(drawn) for drawn in batch])).permute(0, 3, 1, 2)
        images = pixels.to(vae.device, vae.dtype) / 127.5 - 1.0
        decoded = vae.decode(vae.encode(images).latent_dist.mode()).sample
        for drawn, image in zip(batch, (decoded / 2 + 0.5).clamp(0, 1), strict=True):
            outcomes.append(reads_exactly(drawn, image))
            report(1)
    return Rate.of(outcomes)
