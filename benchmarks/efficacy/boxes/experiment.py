"""``python -m benchmarks.efficacy.boxes``: do boxes put the objects of a prompt where they should be?

Pictures are kept as they are made, so a run that is cut short goes on where it stopped.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from tqdm import tqdm

import weft
from benchmarks.efficacy.boxes.cases import Case, cases
from benchmarks.efficacy.boxes.readings import MEASURES, METHOD, WITHOUT, readings, table
from benchmarks.efficacy.digest import digest
from benchmarks.efficacy.pictures import draw
from benchmarks.efficacy.readings import Readings
from benchmarks.efficacy.record import publish
from benchmarks.efficacy.trials import Sampling
from benchmarks.measuring.circumstances import ROOT, circumstances
from weft.methods.maskdiffusion import JOINT, JointSettings
from weft.shapes.load import pipeline

VARIANTS: dict[str, JointSettings | None] = {WITHOUT: None, "boxes": JOINT}
OUT = ROOT / "benchmarks" / "results" / "boxes_efficacy_shapes.json"


@dataclass(frozen=True)
class Options:
    """Draw prompts of two and three objects without boxes and with them, from the same noise, and compare.

    Attributes:
        two, three: Prompts of two and of three objects.
        steps, guidance, seed: How pictures are drawn.
        held_out: Prompts with a pair or a combination that training never showed; otherwise none of them, to choose
            constants on.
        kept: Folder of the pictures so far. They are distinguished by settings, not by code: begin an empty one when
            the method or the model has changed.
        out: JSON file of the results; a table of the same name lies beside it.
    """

    two: int = 256
    three: int = 128
    steps: int = Sampling.steps
    guidance: float = Sampling.guidance
    seed: int = 6000
    held_out: bool = True
    kept: Path = ROOT / "runs" / "efficacy" / "boxes"
    out: Path = OUT


def measure(options: Options) -> dict[str, dict[str, Readings]]:
    """What is read in the pictures of every variant and trial."""
    pipe = pipeline("sd3")
    # a batch has one set of boxes, and every prompt its own
    sampling = Sampling(options.steps, options.guidance, options.seed, batch=1)
    trials = {
        f"{name} objects": cases(count, objects, options.seed, held_out=options.held_out)
        for name, objects, count in (("two", 2, options.two), ("three", 3, options.three))
        if count
    }
    options.kept.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Readings]] = {}
    total = len(VARIANTS) * sum(map(len, trials.values()))
    with tqdm(total=total, unit="picture", smoothing=0.02) as progress:
        for name, settings in VARIANTS.items():
            for trial, some in trials.items():
                progress.set_description(f"{name}, {trial}")
                images = draw(
                    pipe,
                    [case.prompt for case in some],
                    lambda number, settings=settings, some=some: attached(pipe, some[number], settings),
                    sampling,
                    options.kept / f"{_file(f'{name}-{trial}', settings, options)}.npy",
                    progress.update,
                    max_sequence_length=1,  # there is no T5
                )
                found.setdefault(name, {})[trial] = readings(images, some)
    return found


def attached(pipe: Any, case: Case, settings: JointSettings | None) -> AbstractContextManager[Any]:
    """The boxes of a case, while its picture is drawn."""
    return (
        nullcontext() if settings is None else weft.attach(pipe, weft.MaskDiffusion(boxes=case.named, mode=settings))
    )


def _file(name: str, settings: JointSettings | None, options: Options) -> str:
    """Name of what is kept; it changes with all that decides the pictures."""
    made_by = [options.steps, options.guidance, options.seed, options.held_out]
    return f"{re.sub(r'[^a-z]+', '-', name)}-{digest([made_by, None if settings is None else asdict(settings)])}"


def main() -> None:
    """Command-line entry."""
    options = tyro.cli(Options, description=__doc__)
    found = measure(options)
    record = {
        "method": METHOD,
        "model": "weft.shapes sd3",
        "sampling": {
            "steps": options.steps,
            "guidance": options.guidance,
            "seed": options.seed,
            "held_out": options.held_out,
        },
        "settings": {name: repr(settings) for name, settings in VARIANTS.items() if settings is not None},
        "results": MEASURES.summarise(found),
        "circumstances": circumstances(torch.get_num_threads(), "benchmarks.efficacy.boxes"),
    }
    publish(record, table, options.out)
