"""``python -m benchmarks.efficacy.task_prompts.picture``: a sheet of the five tasks, from what was kept.

A row a task, for the first cases of the benchmark as they come: what is given, with its hole in grey, and what is made
of it. What is not kept is painted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

import weft
from benchmarks.efficacy.task_prompts.cases import RUN, Case, case
from benchmarks.efficacy.task_prompts.experiment import Options, model, pictures
from benchmarks.efficacy.task_prompts.readings import LEARNT, as_large
from benchmarks.measuring.circumstances import ROOT
from weft._files import whole_file
from weft.commands.sheets import stack, strip
from weft.methods.powerpaint import TASKS, Task

GREY = (127, 127, 127)
LOOSE = "learnt, fit 0.5"


@dataclass(frozen=True)
class Picture:
    """Lay pictures of every task on a sheet.

    Attributes:
        columns: Cases of each.
        model: As for the benchmark.
        kept: As for the benchmark.
        out: The picture.
    """

    columns: int = 3
    model: Path | None = None
    kept: Path = Options.kept
    out: Path = ROOT / "docs" / "images" / "task_prompts.png"


def given(one: Case) -> Image.Image:
    """The picture with its hole in grey, as large as it will be."""
    return Image.fromarray(np.where(one.hole[..., None], GREY, as_large(one)).astype(np.uint8))


def cells(task: Task, one: Case, painted: dict[str, np.ndarray]) -> list[tuple[str, Image.Image]]:
    """A case and what became of it, with titles."""
    shown = [("hole", given(one))]
    for variant, image in painted.items():
        title = {LEARNT: one.text or task, LOOSE: "fit 0.5"}[variant]
        shown.append((title, Image.fromarray(image)))
    return shown


def main() -> None:
    """Command-line entry."""
    picture = tyro.cli(Picture, description=__doc__)
    options = replace(Options(), model=picture.model, kept=picture.kept)
    pipe, tasks = model(options)
    strips = []
    with weft.attach(pipe, tasks):
        for task in TASKS:
            # a whole run: pictures depend on who is painted beside them in the last bits
            cases = [case(task, options.seed, number) for number in range(RUN)]
            variants = (LEARNT, LOOSE) if task == "shape" else (LEARNT,)
            made = {name: pictures(pipe, tasks, task, name, cases, options, lambda done: None) for name in variants}
            shown = [
                cell
                for number in range(picture.columns)
                for cell in cells(task, cases[number], {name: images[number] for name, images in made.items()})
            ]
            strips.append(strip(task, shown[: 2 * picture.columns]))
    picture.out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(picture.out) as temporary:
        stack(strips).save(temporary, format="PNG", optimize=True)
    print(picture.out)


if __name__ == "__main__":
    main()
