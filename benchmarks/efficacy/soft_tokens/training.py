"""Soft tokens taught to both shapes models, each objective on the same pictures and captions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline
from PIL import Image

import weft
from benchmarks.efficacy.digest import digest
from weft.shapes.captions import caption, near_misses
from weft.shapes.rendering import render
from weft.shapes.shipped import Model
from weft.shapes.world import scene
from weft.train import LoopConfig, SoftTokensConfig, fit_soft_tokens

CAPTIONS, NEAR_MISSES = 3, 6  # of every scene
SEED = 77  # of the world's scenes
SECONDS = "seconds.txt"


@dataclass(frozen=True)
class Lesson:
    """How tokens of one variant are trained.

    Attributes:
        objective: As ``SoftTokensConfig`` has it.
        loop: How long and how fast.
        pictures: Scenes that are taught.
        options: Further fields of ``SoftTokensConfig``.
    """

    objective: str
    loop: LoopConfig
    pictures: int
    options: tuple[tuple[str, Any], ...] = ()

    def config(self) -> SoftTokensConfig:
        return SoftTokensConfig(objective=self.objective, loop=self.loop, **dict(self.options))  # type: ignore[arg-type]


def tokens_of(pipe: DiffusionPipeline, model: Model, lesson: Lesson, kept: Path) -> tuple[weft.SoftTokens, float]:
    """The tokens in ``kept`` and the seconds of one core that they took; taught and kept there if they are not."""
    folder = kept / f"{model}-{lesson.objective}-{digest([asdict(lesson), CAPTIONS, NEAR_MISSES, SEED])}"
    path = folder / "tokens.safetensors"
    if not path.exists():
        start = time.process_time()
        soft = fit_soft_tokens(
            pipe, pairs(lesson.pictures), config=lesson.config(), folder=folder / "run", base_name=f"shapes-{model}"
        )
        (folder / SECONDS).write_text(f"{time.process_time() - start:.1f}\n")
        soft.save(path)
    return weft.SoftTokens.load(path), float((folder / SECONDS).read_text())


def pairs(count: int) -> Sequence[dict[str, Any]]:
    """What is taught: scenes of the training split."""
    return [pair(number) for number in range(count)]


def pair(number: int) -> dict[str, Any]:
    """One scene, what is said of it, and what is nearly right."""
    one = scene(SEED, number)
    texts = [caption(one, np.random.default_rng([SEED, number, which])) for which in range(CAPTIONS)]
    wrong = near_misses(one, np.random.default_rng([SEED, number, CAPTIONS]), NEAR_MISSES)
    return {"image": Image.fromarray(render(one)), "text": texts, "negatives": wrong}
