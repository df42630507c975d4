"""``python -m benchmarks.efficacy.task_prompts``: does each of the five tasks do what it says, and what for?

Pictures are kept as they are made, so a run that is cut short goes on where it stopped, and one with more pictures
makes only those.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from tqdm import tqdm

import weft
from benchmarks.efficacy.digest import digest
from benchmarks.efficacy.pictures import keep
from benchmarks.efficacy.readings import Readings
from benchmarks.efficacy.record import publish
from benchmarks.efficacy.task_prompts.cases import OVERLAP, RUN, Case, case
from benchmarks.efficacy.task_prompts.readings import LEARNT, MEASURES, METHOD, readings, table
from benchmarks.efficacy.trials import noise
from benchmarks.measuring.circumstances import ROOT, circumstances
from weft.methods.powerpaint import TASKS, Task
from weft.shapes.load import open_pipeline, pipeline
from weft.shapes.shipped import model_path

_NO_PROMPT = (None, None)
_WORDS = {"prompts": _NO_PROMPT, "against": _NO_PROMPT}
# variant -> what it changes in the task's recipe
VARIANTS: Mapping[Task, Mapping[str, Mapping[str, Any]]] = {
    "removal": {
        LEARNT: {},
        "learnt, nothing against it": {"against": _NO_PROMPT},
        "fixed words": {**_WORDS, "words": "empty scene blur"},
    },
    "insert": {LEARNT: {}, "fixed words": _WORDS},
    "shape": {
        LEARNT: {"fit": 1.0},
        **{f"learnt, fit {fit:g}": {"fit": fit} for fit in (0.75, 0.5, 0.25, 0.0)},
        "fixed words": _WORDS,
    },
    "context": {
        LEARNT: {},
        "learnt, against the object prompt": {"against": ("object",) * 2},
        "fixed words": {**_WORDS, "words": "empty scene"},
    },
    "outpaint": {
        LEARNT: {},
        "learnt, nothing against it": {"against": _NO_PROMPT},
        "fixed words": {**_WORDS, "words": "empty scene blur"},
    },
}


@dataclass(frozen=True)
class Options:
    """Paint in the same pictures with learnt prompts, with some of them, and with words; and read what came of it.

    Attributes:
        tasks: Which.
        pictures: Of each task and variant.
        steps, guidance, seed: How they are painted.
        model: A folder with an inpainting model and its task prompts; None for the shipped one.
        kept: Folder of what was painted so far, distinguished by settings, not code: begin an empty one when the
            method or the model has changed.
        out: JSON file of the results; a table of the same name lies beside it.
    """

    tasks: tuple[Task, ...] = TASKS
    pictures: int = 304
    steps: int = 15
    guidance: float = 3.0
    seed: int = 5000
    model: Path | None = None
    kept: Path = ROOT / "runs" / "efficacy" / "task_prompts"
    out: Path = ROOT / "benchmarks" / "results" / "task_prompts_efficacy_shapes.json"


def paint(
    pipe: Any, tasks: weft.TaskPrompts, task: Task, cases: list[Case], numbers: range, changes: Any, options: Options
) -> np.ndarray:
    """The pictures [n, h, w, 3] uint8 of a run of cases that are extended alike."""
    some = [cases[number] for number in numbers]
    images = [Image.fromarray(one.image) for one in some]
    arguments: dict[str, Any] = {"guidance_scale": options.guidance, **changes}
    if task == "outpaint":
        given = tasks.outpaint(images, **some[0].extension, overlap=OVERLAP, **arguments)
    else:
        texts = ([one.text for one in some],) if some[0].asked else ()
        given = {
            **getattr(tasks, task)(*texts, **arguments),
            "image": images,
            "mask_image": [Image.fromarray(one.hole) for one in some],
        }
    painted = pipe(
        prompt="",
        num_inference_steps=options.steps,
        generator=[noise(options.seed, number) for number in numbers],
        **given,
    ).images
    return np.stack([np.asarray(image) for image in painted])


def pictures(
    pipe: Any, tasks: weft.TaskPrompts, task: Task, variant: str, cases: list[Case], options: Options, report: Any
) -> np.ndarray:
    """The pictures of a variant, from those that are kept where they are."""
    changes = VARIANTS[task][variant]
    settings = digest([changes, options.steps, options.guidance, options.seed, _weights(options)])
    options.kept.mkdir(parents=True, exist_ok=True)
    return keep(
        len(cases),
        RUN,
        lambda numbers: paint(pipe, tasks, task, cases, numbers, changes, options),
        options.kept / f"{task}-{re.sub(r'[^a-z0-9]+', '-', variant)}-{settings}.npy",
        report,
    )


def _weights(options: Options) -> list[str]:
    """Digests of what paints."""
    folder = options.model or model_path("inpainting")
    return [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(folder.rglob("*.safetensors"))]


def measure(pipe: Any, tasks: weft.TaskPrompts, options: Options) -> dict[Task, dict[str, dict[str, Readings]]]:
    """What is read in the pictures of every task and variant."""
    found: dict[Task, dict[str, dict[str, Readings]]] = {}
    total = options.pictures * sum(len(VARIANTS[task]) for task in options.tasks)
    with weft.attach(pipe, tasks), tqdm(total=total, unit="picture", smoothing=0.02) as progress:
        for task in options.tasks:
            cases = [case(task, options.seed, number) for number in range(options.pictures)]
            for variant in VARIANTS[task]:
                progress.set_description(f"{task}, {variant}")
                images = pictures(pipe, tasks, task, variant, cases, options, progress.update)
                found.setdefault(task, {})[variant] = {task: readings(images, cases, task)}
    return found


def model(options: Options) -> tuple[Any, weft.TaskPrompts]:
    """The pipeline and its prompts."""
    if options.model is None:
        pipe, folder = pipeline("inpainting"), model_path("inpainting")
    else:
        pipe, folder = open_pipeline(options.model), options.model
    pipe.unet.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
    return pipe, weft.TaskPrompts.load(folder)


def main() -> None:
    """Command-line entry."""
    options = tyro.cli(Options, description=__doc__)
    found = measure(*model(options), options)
    record = {
        "method": METHOD,
        "model": "weft.shapes inpainting" if options.model is None else str(options.model),
        "sampling": {"steps": options.steps, "guidance": options.guidance, "seed": options.seed},
        "variants": {task: dict(VARIANTS[task]) for task in found},
        "tasks": {task: MEASURES[task].summarise(variants) for task, variants in found.items()},
        "circumstances": circumstances(torch.get_num_threads(), "benchmarks.efficacy.task_prompts"),
    }
    publish(record, table, options.out)
