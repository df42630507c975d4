"""Measure the reader and a shapes model: ``python -m weft.shapes.evaluate --output quality.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from tqdm import tqdm

from .captions import Prompt, prompts
from .load import open_pipeline, pipeline
from .measuring import decoded_reader_accuracy, mixed_scenes, quality, reader_accuracy
from .shipped import WEIGHTS


@dataclass(frozen=True)
class EvaluateConfig:
    """What to measure, and on how many images."""

    model: str = "sd1"  # "sd1" or "sd3", a shipped model; else a pipeline folder
    output: Path | None = None  # JSON file
    single_images: int = 512  # of one object
    images: int = 256  # of each other kind of prompt
    sweep_images: int = 48  # of one and of two objects, for each guidance scale tried
    guidance: tuple[float, ...] = (1.5, 2.0, 3.0, 4.0, 5.0, 7.5)  # scales tried; a single one skips the sweep
    rendered_scenes: int = 5000
    decoded_scenes: int = 1000
    steps: int = 25  # of the model's own sampler
    max_sequence_length: int | None = None  # of sd3: how many zeros stand for T5; None: the pipeline's own 256
    batch_size: int = 32
    seed: int = 1000
    device: str = "cpu"


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Run every measurement of ``config``.

    Returns:
        A record for JSON: the configuration, the reader's accuracy, the guidance sweep, the scale it chose, and the
        quality for every kind of prompt at that scale.
    """
    pipe = _load(config.model).to(config.device)
    sweep_prompts = prompts(config.sweep_images, 1, seed=config.seed + 1)
    sweep_prompts += prompts(config.sweep_images, 2, seed=config.seed + 1)
    kinds = _kinds(config)

    sweeps = len(config.guidance) if len(config.guidance) > 1 else 0
    total = config.rendered_scenes + config.decoded_scenes
    total += sweeps * len(sweep_prompts) + sum(map(len, kinds.values()))
    with tqdm(total=total, unit="image", smoothing=0.05) as progress:
        report = progress.update

        progress.set_description("reader")
        reader = {
            "rendered": reader_accuracy(mixed_scenes(config.rendered_scenes, config.seed), report),
            "decoded": decoded_reader_accuracy(
                pipe.vae, mixed_scenes(config.decoded_scenes, config.seed + 1), config.batch_size, report
            ),
        }

        sampling: dict[str, Any] = {"steps": config.steps, "batch_size": config.batch_size, "report": report}
        if config.max_sequence_length is not None:
            sampling["max_sequence_length"] = config.max_sequence_length
        progress.set_description("guidance")
        sweep = {}
        for scale in config.guidance if sweeps else ():
            # other noise than in the final measurement, or the chosen scale would flatter itself
            sweep[scale] = quality(pipe, sweep_prompts, scale, seed=config.seed + 1, **sampling)
        best = max(sweep, key=lambda scale: sweep[scale].correct.value) if sweep else config.guidance[0]

        measured = {}
        for kind, texts in kinds.items():
            progress.set_description(kind)
            measured[kind] = quality(pipe, texts, best, seed=config.seed, **sampling)

    return {
        "config": asdict(config),
        "torch": torch.__version__,
        "sampler": type(pipe.scheduler).__name__.removesuffix("Scheduler"),
        "reader": {name: asdict(rate) for name, rate in reader.items()},
        "guidance": best,
        "sweep": {scale: found.as_dict() for scale, found in sweep.items()},
        "quality": {kind: found.as_dict() for kind, found in measured.items()},
    }


def _kinds(config: EvaluateConfig) -> dict[str, list[Prompt]]:
    """The kinds of prompt that are measured apart, by name."""
    n, seed = config.images, config.seed
    return {
        "one object": prompts(config.single_images, 1, seed=seed),
        "one object, held out": prompts(n, 1, held_out=True, seed=seed),
        "two objects": prompts(n, 2, seed=seed),
        "two objects, held out": prompts(n, 2, held_out=True, seed=seed),
        "two objects, relation": prompts(n, 2, relations=True, seed=seed),
        "three objects": prompts(n, 3, seed=seed),
    }


def _load(model: str) -> Any:
    return pipeline(model) if model in WEIGHTS else open_pipeline(Path(model))


def table(record: dict[str, Any]) -> str:
    """The record as text for a terminal: shares in percent, with 95 % intervals."""

    def cell(rate: dict[str, float] | None) -> str:
        if rate is None:
            return "-"
        return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * rate[key] for key in ("value", "low", "high")))

    columns = ("correct", "present", "bound", "related", "without_extras")
    lines = [f"reader, {name:<9} {cell(rate)} of {rate['total']}" for name, rate in record["reader"].items()]
    lines += [f"guidance {scale:<4}     {cell(found['correct'])} correct" for scale, found in record["sweep"].items()]
    lines += [f"\n{record['sampler']}, {record['config']['steps']} steps, guidance {record['guidance']}"]
    lines += [f"{'':<24}" + "".join(f"{name:<20}" for name in columns)]
    for kind, found in record["quality"].items():
        lines.append(f"{kind:<24}" + "".join(f"{cell(found[name]):<20}" for name in columns))
    return "\n".join(lines)


def main() -> None:
    """Command-line entry."""
    config = tyro.cli(EvaluateConfig, description=__doc__)
    record = evaluate(config)
    print(table(record))
    if config.output is not None:
        config.output.parent.mkdir(parents=True, exist_ok=True)
        config.output.write_text(json.dumps(record, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
