"""``python -m benchmarks.efficacy.gan_losses.runs``: train the GANs to evaluate, one after the other.

Every design with every choice of losses and every seed, seed by seed, so that a series that is cut short has whole
comparisons. A run that is finished is left alone, one that was stopped goes on; all share one matching model.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from tqdm import tqdm

from benchmarks.efficacy.gan_losses.summary import LOSSES
from benchmarks.measuring.circumstances import ROOT
from weft import shapes
from weft._files import whole_folder
from weft.train import GanConfig, fit_gan
from weft.train.core import CHECKPOINT
from weft.train.gan import WEIGHTS, Baseline


@dataclass(frozen=True)
class Options:
    """Train a series of GANs on the shapes world.

    Attributes:
        baselines, losses, seeds: Which runs.
        steps, f2f_weight, f2r_weight, features, both_views: As of ``GanConfig``; other numbers want another folder.
        scenes, captions: What they learn from.
        text: Folder of a text encoder in place of our own, which learns beside the matching model that wordings of one
            scene are the same.
        folder: Gets a folder a run, named BASELINE-LOSSES-SEED.
    """

    baselines: tuple[Baseline, ...] = ("ssa", "attn")
    losses: tuple[str, ...] = LOSSES
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = GanConfig.steps
    f2f_weight: float = GanConfig.f2f_weight
    f2r_weight: float = GanConfig.f2r_weight
    features: Literal["matching", "discriminator"] = "matching"
    both_views: bool = GanConfig.both_views
    scenes: int = 20_000
    captions: int = 8
    text: Path | None = None
    folder: Path = ROOT / "runs" / "gan"


def train(options: Options, baseline: Baseline, losses: str, seed: int) -> Path:
    """One run, from where it stopped; the folder of its generator."""
    out = options.folder / f"{baseline}-{losses}-{seed}"
    if (out / WEIGHTS).is_file():
        return out
    run, matching = options.folder / "checkpoints" / out.name, options.folder / "matching"
    config = GanConfig(
        baseline=baseline,
        losses=losses,
        seed=seed,
        steps=options.steps,
        f2f_weight=options.f2f_weight,
        f2r_weight=options.f2r_weight,
        features=options.features,
        both_views=options.both_views,
        matching_folder=matching if matching.is_dir() else None,
        sample_every=500,
        log_every=50,
    )
    pictures = shapes.CaptionedScenes(options.scenes, captions=options.captions)
    generator = fit_gan(pictures, config=config, folder=run, resume=(run / CHECKPOINT).is_file(), text=options.text)
    if not matching.is_dir():
        with whole_folder(matching) as temporary:
            shutil.copytree(run / "matching", temporary, dirs_exist_ok=True)
    # last: where it lies nothing of the run is done again
    generator.save(out)
    return out


def main() -> None:
    """Command-line entry."""
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    wanted = [
        (baseline, losses, seed)
        for seed in options.seeds
        for baseline in options.baselines
        for losses in options.losses
    ]
    for baseline, losses, seed in tqdm(wanted, desc="runs", unit="run"):
        train(options, baseline, losses, seed)


if __name__ == "__main__":
    main()
