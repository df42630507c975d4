"""``python -m benchmarks.efficacy.maskdiffusion``: are all objects there, each in its colour, with and without it?

Verdicts are kept after every batch, so a run that is cut short goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from diffusers import DiffusionPipeline
from tqdm import tqdm

import weft
from benchmarks.efficacy.digest import digest
from benchmarks.efficacy.maskdiffusion.summary import summarise, table
from benchmarks.efficacy.maskdiffusion.verdicts import Method, Verdicts, draw
from benchmarks.efficacy.record import publish
from benchmarks.efficacy.trials import Sampling, Trial
from benchmarks.measuring.circumstances import ROOT, circumstances
from weft.methods.maskdiffusion import MODES, MaskDiffusionSettings
from weft.shapes.captions import Prompt, phrase
from weft.shapes.load import pipeline

NEVER = 10**6  # a step that does not come
CLEAN = MODES["clean"]
VARIANTS: dict[str, MaskDiffusionSettings | None] = {
    "base": None,
    "clean": CLEAN,
    "released": MODES["released"],
    "cross only": replace(CLEAN, self_from=NEVER),
    "self only": replace(CLEAN, cross_from=NEVER),
    "no swap": replace(CLEAN, swap="never"),
}
ABLATIONS = ("cross only", "self only", "no swap")
SEEDS = 4  # images of a prompt with one object
SEVERAL = ("two objects", "three objects")
OUT = ROOT / "benchmarks" / "results" / "maskdiffusion_efficacy_shapes.json"


@dataclass(frozen=True)
class Options:
    """Draw prompts of one, two and three objects with every variant, from the same noise, and compare.

    Attributes:
        variants: Which; all unless given.
        two, three: Prompts of two and of three objects; each holds a pair or a combination that training never showed.
        one: Prompts of one object, each drawn from four noises.
        ablation: The most prompts of a kind that ablations get; base and presets get all.
        steps, guidance, seed: How images are drawn.
        kept: Folder of the verdicts so far. They are distinguished by settings, not by code: begin an empty one when
            the method, the model or the reader has changed.
        out: JSON file of the results; a table of the same name lies beside it.
    """

    variants: tuple[str, ...] = tuple(VARIANTS)
    two: int = 768
    three: int = 384
    one: int = 48
    ablation: int = 128
    steps: int = Sampling.steps
    guidance: float = Sampling.guidance
    seed: int = Sampling.seed
    kept: Path = ROOT / "runs" / "efficacy" / "maskdiffusion"
    out: Path = OUT


def attach(pipe: DiffusionPipeline, settings: MaskDiffusionSettings) -> Method:
    """The method, given the objects of every prompt by name: finding phrases is not what is measured."""

    def method(batch: Sequence[Prompt]) -> AbstractContextManager[Any]:
        return weft.attach(pipe, weft.MaskDiffusion([_phrases(prompt) for prompt in batch], mode=settings))

    return method


def _phrases(prompt: Prompt) -> list[str]:
    names = [phrase(*pair) for pair in prompt.objects]
    return [f"{name}#{names[: i + 1].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def trials(options: Options, variant: str) -> list[Trial]:
    most = options.ablation if variant in ABLATIONS else NEVER
    wanted = [
        Trial("two objects", 2, min(options.two, most)),
        Trial("three objects", 3, min(options.three, most)),
        Trial("one object", 1, 0 if variant in ABLATIONS else options.one, seeds=SEEDS, held_out=False),
    ]
    return [trial for trial in wanted if len(trial)]


def measure(options: Options) -> dict[str, dict[str, Verdicts]]:
    """Verdicts by variant and trial."""
    if unknown := set(options.variants) - set(VARIANTS):
        raise ValueError(f"efficacy: `variants` must be of {', '.join(VARIANTS)}; got {', '.join(unknown)}")
    pipe = pipeline()
    pipe.unet.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
    sampling = Sampling(options.steps, options.guidance, options.seed)
    plan = [(name, trial) for name in options.variants for trial in trials(options, name)]
    found: dict[str, dict[str, Verdicts]] = {}
    with tqdm(total=sum(len(trial) for _, trial in plan), unit="image", smoothing=0.02) as progress:
        for name, trial in plan:
            progress.set_description(f"{name}, {trial.name}")
            settings = VARIANTS[name]
            method = None if settings is None else attach(pipe, settings)
            folder = options.kept / f"seed{options.seed}-steps{options.steps}-guidance{options.guidance:g}"
            folder.mkdir(parents=True, exist_ok=True)
            kept = (
                folder
                / f"{name}-{digest(None if settings is None else asdict(settings))}-{trial.name}.json".replace(
                    " ", "-"
                )
            )
            found.setdefault(name, {})[trial.name] = draw(pipe, trial, sampling, method, kept, progress.update)
    return found


def main() -> None:
    """Command-line entry."""
    options = tyro.cli(Options, description=__doc__)
    found = measure(options)
    record = {
        "method": "MaskDiffusion",
        "model": "weft.shapes",
        "sampling": {"steps": options.steps, "guidance": options.guidance, "seed": options.seed},
        "settings": {name: asdict(settings) for name in found if (settings := VARIANTS[name]) is not None},
        "results": summarise(found, SEVERAL, SEEDS),
        "circumstances": circumstances(torch.get_num_threads(), "benchmarks.efficacy.maskdiffusion"),
    }
    publish(record, table, options.out)
