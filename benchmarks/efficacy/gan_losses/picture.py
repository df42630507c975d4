"""``python -m benchmarks.efficacy.gan_losses.picture FOLDER``: the same captions and noise, by all runs of a seed.

A row a choice of losses: first one scene in several wordings from one noise, then its first wording from other noises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image

from benchmarks.efficacy.gan_losses.experiment import Run, runs_of
from benchmarks.measuring.circumstances import ROOT
from weft._files import whole_file
from weft.commands.sheets import stack, strip
from weft.evaluation import Plan, Request, generator_sampler, requests, shapes_pictures
from weft.evaluation.samplers import as_image
from weft.train.gan import Generator


@dataclass(frozen=True)
class Picture:
    """Lay samples of runs on a sheet.

    Attributes:
        runs: Folder of the runs.
        baseline: Whose runs.
        seed: Of training.
        scenes: Numbers of scenes of the evaluation.
        wordings: Of each, from one noise.
        noises: Of the first wording, beside the one it has already.
        out: The picture.
    """

    runs: tyro.conf.Positional[Path]
    baseline: str = "ssa"
    seed: int = 0
    scenes: tuple[int, ...] = (0, 1)
    wordings: int = 4
    noises: int = 3
    out: Path = ROOT / "docs" / "images" / "gan_losses.png"


def sheet(picture: Picture) -> Image.Image:
    """The rows of every scene, one a run.

    Raises:
        ValueError: No run of that baseline and seed.
    """
    mine = [run for run in runs_of(picture.runs) if (run.baseline, run.seed) == (picture.baseline, picture.seed)]
    if not mine:
        raise ValueError(f"efficacy: {picture.runs} has no run of {picture.baseline} and seed {picture.seed}")
    most = max(picture.scenes) + 1
    plan = Plan(max(most, 2), most, picture.wordings, picture.noises + 1)
    asked = requests(shapes_pictures(plan.count, plan.paraphrases), plan)
    generators = [(run, Generator.load(run.folder)) for run in mine]
    return stack(
        [
            _row(run, generator, [one for one in asked if one.scene == scene])
            for scene in picture.scenes
            for run, generator in generators
        ]
    )


def _row(run: Run, generator: Generator, asked: Sequence[Request]) -> Image.Image:
    """The images asked for of one scene, by one generator."""
    sampler = generator_sampler(generator, generator.noise_width)
    drawn = map(as_image, sampler([one.caption for one in asked], [one.noise for one in asked]))
    first = asked[0]
    titles = [one.caption if one.noise == first.noise else f"noise {one.noise - first.noise}" for one in asked]
    return strip(f"{run.baseline}, losses {run.losses}: {first.caption}", list(zip(titles, drawn, strict=True)))


def main() -> None:
    """Command-line entry."""
    picture = tyro.cli(Picture, description=__doc__)
    found = sheet(picture)
    picture.out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(picture.out) as temporary:
        found.save(temporary, format="PNG", optimize=True)
    print(picture.out)


if __name__ == "__main__":
    main()
