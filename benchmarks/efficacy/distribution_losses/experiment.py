"""``python -m benchmarks.efficacy.distribution_losses``: do fake-to-fake and fake-to-real make soft tokens better?

The same tokens on the same pictures for as many steps, with the losses and without. What is taught and what is drawn
are kept, so a run that is cut short goes on where it stopped.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from diffusers import DiffusionPipeline
from tqdm import tqdm

import weft
from benchmarks.efficacy.digest import digest
from benchmarks.efficacy.distribution_losses.summary import METHOD, table
from benchmarks.efficacy.distribution_losses.trials import (
    BASE,
    MEASURES,
    NOISES,
    TOKENS,
    WORDINGS,
    Views,
    readings,
)
from benchmarks.efficacy.pictures import keep
from benchmarks.efficacy.readings import Readings
from benchmarks.efficacy.record import publish
from benchmarks.efficacy.soft_tokens.training import Lesson, tokens_of
from benchmarks.efficacy.trials import Sampling, noise
from benchmarks.measuring.circumstances import ROOT, circumstances
from weft.shapes.load import pipeline
from weft.train import LoopConfig
from weft.train.distribution import DistributionConfig, Through, losses_named

MODEL = "sd1"
OUT = ROOT / "benchmarks" / "results" / "distribution_losses_efficacy_shapes.json"
# through what, and which losses
TERMS: dict[str, tuple[str, Through] | None] = {
    TOKENS: None,
    "F2F, x0": ("f2f", "x0"),
    "F2R, x0": ("f2r", "x0"),
    "F2F + F2R, x0": ("f2f,f2r", "x0"),
    "F2F + F2R, chain": ("f2f,f2r", "chain"),
}


@dataclass(frozen=True)
class Options:
    """Teach tokens with and without the losses, draw with them from the same noise, and compare.

    Attributes:
        variants: Which; all unless given. The base is always drawn.
        steps: Of training, the same for all.
        weight: Of the losses beside the objective. With 0.3 the gradient of fake-to-real is about the objective's own
            at the start.
        taught: Scenes that are taught.
        prompts: Of two objects, for each of the two kinds of pictures.
        each: Pictures of a prompt: wordings under one noise, noises under one wording.
        sampler_steps: A picture.
        seed: Of prompts and noise.
        kept: Folder of what was taught and drawn so far; begin an empty one when code has changed.
        out: JSON file of the results; a table of the same name lies beside it.
    """

    variants: tuple[str, ...] = ()
    steps: int = 300
    weight: float = 0.3
    taught: int = 2000
    prompts: int = 96
    each: int = 4
    sampler_steps: int = 20
    seed: int = Sampling.seed
    kept: Path = ROOT / "runs" / "efficacy" / "distribution_losses"
    out: Path = OUT

    @property
    def trials(self) -> tuple[Views, ...]:
        return (
            Views(WORDINGS.format(self.each), self.prompts, self.each, rewords=True),
            Views(NOISES.format(self.each), self.prompts, self.each, rewords=False),
        )

    def lesson(self, name: str) -> Lesson:
        """How the tokens of a variant are trained."""
        loop = LoopConfig(
            steps=self.steps,
            learning_rate=1e-2,
            batch_size=8,
            decay_steps=self.steps // 2,
            weight_decay=1e-4,
            average_decay=0.98,
            log_every=5,
        )
        options: list[tuple[str, Any]] = [("blocks", ("down_blocks", "mid_block")), ("time_buckets", 10)]
        options += [("negatives", 1), ("gamma_plus", 3.0)]
        if (term := TERMS[name]) is not None:
            losses, through = term
            options.append(("distribution", DistributionConfig(losses_named(losses), self.weight, through)))
        return Lesson("agsm", loop, self.taught, tuple(options))


def measure(pipe: DiffusionPipeline, options: Options) -> tuple[dict[str, dict[str, Readings]], dict[str, float]]:
    """What is read in the pictures of every variant and trial, and the seconds that teaching took."""
    if unknown := set(options.variants) - set(TERMS):
        raise ValueError(f"efficacy: `variants` must be of {', '.join(TERMS)}; got {', '.join(unknown)}")
    names = options.variants or tuple(TERMS)
    found: dict[str, dict[str, Readings]] = {}
    seconds = {}
    total = (1 + len(names)) * sum(trial.prompts * trial.each for trial in options.trials)
    with tqdm(total=total, unit="picture", smoothing=0.02) as progress:
        for name in (BASE, *names):
            progress.set_description(name)
            lesson = None if name == BASE else options.lesson(name)
            soft = None
            if lesson is not None:
                soft, seconds[name] = tokens_of(pipe, MODEL, lesson, options.kept)
            found[name] = {}
            for trial in options.trials:
                items = trial.items(options.seed)
                images = pictures(pipe, trial, lesson, soft, options, progress.update)
                found[name][trial.name] = readings(images, items, trial.each)
    return found, seconds


def pictures(
    pipe: DiffusionPipeline,
    trial: Views,
    lesson: Lesson | None,
    soft: weft.SoftTokens | None,
    options: Options,
    report: Any,
) -> np.ndarray:
    sampling = replace(Sampling(), steps=options.sampler_steps, seed=options.seed)
    items = trial.items(options.seed)

    def make(numbers: range) -> np.ndarray:
        drawn = pipe(
            [items[number][0].text for number in numbers],
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            generator=[noise(sampling.seed, items[number][1]) for number in numbers],
            output_type="np",
        ).images
        return (drawn * 255).round().astype(np.uint8)

    settings = digest([None if lesson is None else asdict(lesson), asdict(sampling), trial.each])
    kept = options.kept / f"{trial.name}-{settings}.npy".replace(" ", "-")
    options.kept.mkdir(parents=True, exist_ok=True)
    with nullcontext() if soft is None else weft.attach(pipe, soft):
        return keep(len(items), sampling.batch, make, kept, report)


def main() -> None:
    """Command-line entry."""
    options = tyro.cli(Options, description=__doc__)
    found, seconds = measure(pipeline(MODEL), options)
    record = {
        "method": METHOD,
        "options": {name: value for name, value in asdict(options).items() if name not in ("kept", "out")},
        "lessons": {name: asdict(options.lesson(name)) for name in seconds},
        "seconds": seconds,
        "results": MEASURES.summarise(found),
        "circumstances": circumstances(torch.get_num_threads(), "benchmarks.efficacy.distribution_losses"),
    }
    publish(record, table, options.out)
