"""``python -m benchmarks.efficacy.residuals.picture``: a sheet of taught concepts, from what the benchmark kept.

A row a concept: two of its reference pictures, then the same noise drawn by the model alone, with the residual
everywhere, and localized. What is not kept is taught and drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from PIL import Image

from benchmarks.efficacy.residuals import adapters
from benchmarks.efficacy.residuals.experiment import CONCEPTS, VARIANTS, Options, pictures_file, sampling_of, teach
from benchmarks.efficacy.residuals.trials import Trial, draw
from benchmarks.measuring.circumstances import ROOT
from weft._files import whole_file
from weft.commands.sheets import stack, strip
from weft.shapes.concepts import references
from weft.shapes.load import pipeline

COLUMNS = {
    "base": "by itself",
    "everywhere": "residual everywhere",
    "LAG, median": "localized (median)",
}


@dataclass(frozen=True)
class Picture:
    """Lay concepts on a sheet.

    Attributes:
        rows: Of each row, which concept and which of its pictures beside another object, both counted from 0.
        kept: As for the benchmark.
        out: The picture.
    """

    rows: tuple[tuple[int, int], ...] = ((0, 3), (2, 3), (3, 6))
    kept: Path = Options.kept
    out: Path = ROOT / "docs" / "images" / "residuals.png"


def main() -> None:
    """Command-line entry."""
    picture = tyro.cli(Picture, description=__doc__)
    options = Options(kept=picture.kept)
    pipe = pipeline()
    pipe.unet.to(memory_format=torch.channels_last)
    strips = []
    for number, index in picture.rows:
        concept = CONCEPTS[number]
        taught, sampling = teach(pipe, concept, options.kept), sampling_of(concept, options)
        trial = Trial("beside another", 1, index + 1)
        prompts = trial.prompts(concept, sampling.seed)
        shown = [(f"reference {i + 1}", one) for i, one in enumerate(references(concept, 2, adapters.REFERENCE_SEED))]
        for name, title in COLUMNS.items():
            kept = pictures_file(concept, trial, name, options)
            images = draw(pipe, taught, VARIANTS[name], prompts, None, sampling, kept, lambda done: None)
            shown.append((title, Image.fromarray(images[index])))
        strips.append(strip(prompts[index].text, shown))
    picture.out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(picture.out) as temporary:
        stack(strips).save(temporary, format="PNG", optimize=True)
    print(picture.out)


if __name__ == "__main__":
    main()
