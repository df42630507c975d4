"""``python -m benchmarks.efficacy.soft_tokens``: do soft tokens make a model follow its prompts, and at what price?

What is taught and what is drawn are kept, so a run that is cut short goes on where it stopped, and one with more
pictures draws only those.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
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
from benchmarks.efficacy.pictures import draw
from benchmarks.efficacy.readings import Readings
from benchmarks.efficacy.record import publish
from benchmarks.efficacy.soft_tokens.retrieval import Retrieval
from benchmarks.efficacy.soft_tokens.summary import BASE, MEASURES, METHOD, readings, table
from benchmarks.efficacy.soft_tokens.training import Lesson, tokens_of
from benchmarks.efficacy.trials import Sampling, Trial
from benchmarks.measuring.circumstances import ROOT, circumstances
from weft._files import whole_file
from weft.shapes.load import pipeline
from weft.shapes.shipped import Model
from weft.train import LoopConfig


def _loop(steps: int, batch_size: int, average_decay: float = 0.0) -> LoopConfig:
    half = steps // 2
    return LoopConfig(
        steps=steps,
        learning_rate=1e-2,
        batch_size=batch_size,
        decay_steps=half,
        weight_decay=1e-4,
        average_decay=average_decay,
    )


# chosen on other prompts and noise
LESSONS: dict[Model, dict[str, Lesson]] = {
    "sd1": {
        "AGSM, near misses": Lesson(
            "agsm",
            _loop(260, 8, 0.98),
            2000,
            (
                ("blocks", ("down_blocks", "mid_block")),
                ("time_buckets", 10),
                ("negatives", 1),
                ("wrong_captions", 2),
                ("gamma_plus", 3.0),
            ),
        ),
        "AGSM": Lesson(
            "agsm", _loop(400, 8, 0.98), 4000, (("blocks", ("down_blocks", "mid_block")), ("time_buckets", 10))
        ),
        "SoftREPA": Lesson("contrast", _loop(400, 6), 4000, (("time_buckets", 10),)),
    },
    "sd3": {
        "AGSM": Lesson(
            "agsm", _loop(300, 8, 0.98), 4000, (("gamma_minus", 0.1), ("time_buckets", 10), ("text_length", 1))
        ),
    },
}
SAMPLING: dict[Model, Sampling] = {"sd1": Sampling(), "sd3": Sampling(guidance=3.0)}
ARGUMENTS: dict[Model, dict[str, Any]] = {"sd1": {}, "sd3": {"max_sequence_length": 1}}  # there is no T5
SEEDS = 4  # pictures of a prompt where diversity is measured
OUT = ROOT / "benchmarks" / "results" / "soft_tokens_efficacy_shapes.json"


@dataclass(frozen=True)
class Options:
    """Teach tokens to the shapes models by every objective, draw with them from the same noise, and compare.

    Attributes:
        models: Which.
        variants: Which; all unless given. The base is always drawn.
        one, two, three: Prompts of so many objects; each names something that training never showed.
        several: Prompts of two objects that are drawn from four noises each, for diversity.
        seed: Of prompts and noise.
        kept: Folder of what was taught and drawn so far. Both are distinguished by settings, not code: begin an empty
            one when the method, its training or a model has changed.
        out: JSON file of the results; a table of the same name lies beside it.
    """

    models: tuple[Model, ...] = tuple(SAMPLING)
    variants: tuple[str, ...] = ()
    one: int = 96
    two: int = 224
    three: int = 192
    several: int = 24
    seed: int = Sampling.seed
    kept: Path = ROOT / "runs" / "efficacy" / "soft_tokens"
    out: Path = OUT

    @property
    def trials(self) -> tuple[Trial, ...]:
        found = (
            Trial("one object", 1, self.one),
            Trial("two objects", 2, self.two),
            Trial("three objects", 3, self.three),
            Trial("two objects, four noises", 2, self.several, SEEDS),
        )
        return tuple(trial for trial in found if len(trial))


def measure(model: Model, options: Options) -> tuple[dict[str, dict[str, Readings]], dict[str, float]]:
    """What is read in the pictures of every variant and trial, and the seconds that teaching took."""
    pipe, lessons = pipeline(model), LESSONS[model]
    if unknown := set(options.variants) - set(lessons):
        raise ValueError(f"efficacy: `variants` must be of {', '.join(lessons)}; got {', '.join(unknown)}")
    names = options.variants or tuple(lessons)
    taught = {name: tokens_of(pipe, model, lessons[name], options.kept) for name in names}
    found: dict[str, dict[str, Readings]] = {}
    with tqdm(total=(1 + len(names)) * sum(map(len, options.trials)), unit="picture", smoothing=0.02) as progress:
        for name in (BASE, *names):
            progress.set_description(f"{model}, {name}")
            lesson = None if name == BASE else asdict(lessons[name])
            control = taught[name][0] if name in taught else None
            found[name] = {
                trial.name: readings(
                    list(pictures(pipe, model, trial, lesson, control, options, progress.update)),
                    trial.items(options.seed),
                    trial.seeds,
                )
                for trial in options.trials
            }
            found[name]["all"] = together(found[name])
            found[name]["held-out scenes"] = {"retrieved": retrieved(pipe, model, lesson, control, options)}
    return found, {name: seconds for name, (_, seconds) in taught.items()}


def together(trials: Mapping[str, Readings]) -> Readings:
    """Those of all prompts with one picture each."""
    found: Readings = {}
    for part in trials.values():
        if "diversity" not in part:
            for name, values in part.items():
                found.setdefault(name, []).extend(values)
    return found


def pictures(
    pipe: DiffusionPipeline,
    model: Model,
    trial: Trial,
    lesson: dict[str, Any] | None,
    control: weft.SoftTokens | None,
    options: Options,
    report: Callable[[int], object],
) -> np.ndarray:
    sampling = replace(SAMPLING[model], seed=options.seed)
    settings = digest([lesson, asdict(sampling)])
    kept = options.kept / f"{model}-{trial.name}-{settings}.npy".replace(" ", "-")

    def added(first: int) -> AbstractContextManager[Any]:
        return _active(pipe, control)

    return draw(pipe, trial.items(options.seed), added, sampling, kept, report, **ARGUMENTS[model])


def retrieved(
    pipe: DiffusionPipeline,
    model: Model,
    lesson: dict[str, Any] | None,
    control: weft.SoftTokens | None,
    options: Options,
) -> list[bool]:
    """Of every held-out scene, whether the model knows its own caption among others; kept like pictures."""
    retrieval = Retrieval()
    kept = options.kept / f"{model}-retrieval-{digest([lesson, asdict(retrieval)])}.json"
    if not kept.exists():
        with _active(pipe, control):
            hits = retrieval.hits(pipe)
        with whole_file(kept) as temporary:
            temporary.write_text(json.dumps(hits))
    return json.loads(kept.read_text())


def _active(pipe: DiffusionPipeline, control: weft.SoftTokens | None) -> AbstractContextManager[Any]:
    return nullcontext() if control is None else weft.attach(pipe, control)


def main() -> None:
    """Command-line entry."""
    options = tyro.cli(Options, description=__doc__)
    record: dict[str, Any] = {"method": METHOD, "models": {}}
    for model in options.models:
        found, seconds = measure(model, options)
        record["models"][model] = {
            "sampling": asdict(SAMPLING[model]),
            "lessons": {name: asdict(LESSONS[model][name]) for name in found if name != BASE},
            "seconds": seconds,
            "results": MEASURES.summarise(found),
        }
    record["circumstances"] = circumstances(torch.get_num_threads(), "benchmarks.efficacy.soft_tokens")
    publish(record, table, options.out)
