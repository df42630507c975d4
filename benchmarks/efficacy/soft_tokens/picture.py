"""``python -m benchmarks.efficacy.soft_tokens.picture``: a sheet of what soft tokens change, from what was kept.

A row a picture: the same prompt and noise drawn by the model alone and with the tokens of each objective. They are the
first whose verdict a variant changes, for better or worse. What is not kept is taught and drawn.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from benchmarks.efficacy.soft_tokens.experiment import LESSONS, Options, pictures
from benchmarks.efficacy.soft_tokens.summary import BASE
from benchmarks.efficacy.soft_tokens.training import tokens_of
from benchmarks.measuring.circumstances import ROOT
from weft._files import whole_file
from weft.commands.sheets import stack, strip
from weft.shapes.captions import Prompt
from weft.shapes.load import pipeline
from weft.shapes.scoring import score
from weft.shapes.shipped import Model

TITLES = {True: "right", False: "wrong"}


@dataclass(frozen=True)
class Picture:
    """Lay pictures that change on a sheet.

    Attributes:
        models: Which.
        rows: Pictures of each.
        variant: Whose changes are looked for.
        kept: As for the benchmark.
        out: The picture.
    """

    models: tuple[Model, ...] = ("sd1", "sd3")
    rows: int = 3
    variant: str = "AGSM"
    kept: Path = Options.kept
    out: Path = ROOT / "docs" / "images" / "soft_tokens.png"


def changed(verdicts: dict[str, list[bool]], variant: str) -> list[int]:
    """Numbers of the pictures in which ``variant`` has another verdict than the base."""
    return [i for i, (mine, base) in enumerate(zip(verdicts[variant], verdicts[BASE], strict=True)) if mine != base]


def main() -> None:
    """Command-line entry."""
    picture = tyro.cli(Picture, description=__doc__)
    options, strips = Options(kept=picture.kept), []
    trial = next(trial for trial in options.trials if trial.objects == 2)
    prompts = trial.items(options.seed)
    for model in picture.models:
        pipe, drawn = pipeline(model), {}
        for name in (BASE, *LESSONS[model]):
            lesson = None if name == BASE else LESSONS[model][name]
            control = None if lesson is None else tokens_of(pipe, model, lesson, options.kept)[0]
            settings = None if lesson is None else asdict(lesson)
            drawn[name] = pictures(pipe, model, trial, settings, control, options, lambda done: None)
        verdicts = {name: _verdicts(images, prompts) for name, images in drawn.items()}
        for number in changed(verdicts, picture.variant)[: picture.rows]:
            shown = [
                (f"{name}: {TITLES[verdicts[name][number]]}", Image.fromarray(images[number]))
                for name, images in drawn.items()
            ]
            strips.append(strip(f"{model}: {prompts[number].text}", shown))
    picture.out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(picture.out) as temporary:
        stack(strips).save(temporary, format="PNG", optimize=True)
    print(picture.out)


def _verdicts(images: np.ndarray, prompts: list[Prompt]) -> list[bool]:
    return [score(prompt, image).correct for prompt, image in zip(prompts, images, strict=True)]


if __name__ == "__main__":
    main()
