"""``python -m benchmarks.efficacy.residuals``: is a taught concept drawn, and does the rest of the picture stay?

What is taught and what is drawn are kept, so a run that is cut short goes on where it stopped, and one with more
pictures draws only those.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from diffusers import DiffusionPipeline
from tqdm import tqdm

from benchmarks.efficacy.digest import digest
from benchmarks.efficacy.readings import Readings
from benchmarks.efficacy.record import publish
from benchmarks.efficacy.residuals import adapters
from benchmarks.efficacy.residuals.preservation import Seen
from benchmarks.efficacy.residuals.summary import MEASURES, METHOD, readings, table
from benchmarks.efficacy.residuals.trials import Taught, Trial, Variant, class_boxes, draw
from benchmarks.efficacy.trials import Sampling
from benchmarks.measuring.circumstances import ROOT, circumstances
from weft.shapes.concept_reader import shows
from weft.shapes.concepts import REFERENCE_SIZES, Concept, Finish, reference
from weft.shapes.load import pipeline
from weft.shapes.measuring import Rate

CONCEPTS = (
    Concept("square", Finish("side by side", "red", "white")),
    Concept("circle", Finish("stacked", "white", "blue")),
    Concept("triangle", Finish("side by side", "white", "blue")),
    Concept("square", Finish("striped", "blue", "white")),
)
VARIANTS: dict[str, Variant] = {
    "base": Variant("none"),
    "everywhere": Variant("residual"),
    "LAG, median": Variant("residual", "attention", "median"),
    "LAG, otsu": Variant("residual", "attention", "otsu"),
    "user's box": Variant("residual", "box"),
    "everywhere, both rows": Variant("residual", cfg="both"),
    "LAG, median, both rows": Variant("residual", "attention", "median", cfg="both"),
    "peft LoRA": Variant("lora"),
}
READER_SEED, READER_PICTURES = 900, 64  # of each concept, to measure the reader itself
OUT = ROOT / "benchmarks" / "results" / "residuals_efficacy_shapes.json"


@dataclass(frozen=True)
class Options:
    """Teach four concepts that the model never saw, draw them with every variant from the same noise, and compare.

    Attributes:
        variants: Which; all unless given. The base is always drawn.
        alone: Pictures a concept of prompts that name nothing else.
        beside: Pictures a concept of prompts that name an ordinary object too.
        steps, guidance, seed: How pictures are drawn.
        kept: Folder of what was taught and drawn so far. Both are distinguished by settings, not code: begin an empty
            one when the method, its training or the model has changed.
        out: JSON file of the results; a table of the same name lies beside it.
    """

    variants: tuple[str, ...] = tuple(VARIANTS)
    alone: int = 32
    beside: int = 32
    steps: int = Sampling.steps
    guidance: float = Sampling.guidance
    seed: int = Sampling.seed
    kept: Path = ROOT / "runs" / "efficacy" / "residuals"
    out: Path = OUT


def training() -> dict[str, Any]:
    """What a residual depends on beside its concept."""
    return {
        "pictures": adapters.PICTURES,
        "picture_seed": adapters.REFERENCE_SEED,
        "sizes": REFERENCE_SIZES,
        "identifier": adapters.IDENTIFIER,
        **{name: value for name, value in asdict(adapters.LOOP).items() if "every" not in name},
        "lora_learning_rate": adapters.LORA_LEARNING_RATE,
    }


def teach(pipe: DiffusionPipeline, concept: Concept, kept: Path) -> Taught:
    """The concept's residual and LoRA, from ``kept`` where they lie there already."""
    folder = _folder(concept, kept)
    return Taught(
        concept,
        adapters.residual_of(pipe, concept, folder / "residual.safetensors"),
        adapters.lora_of(pipe, concept, folder / "lora.safetensors"),
    )


def sampling_of(concept: Concept, options: Options) -> Sampling:
    """How pictures of a concept are drawn: every concept has its own noise."""
    return Sampling(options.steps, options.guidance, options.seed + CONCEPTS.index(concept))


def pictures_file(concept: Concept, trial: Trial, variant: str, options: Options) -> Path:
    """Where the pictures of a variant are kept."""
    settings = digest([asdict(VARIANTS[variant]), asdict(sampling_of(concept, options))])
    return _folder(concept, options.kept) / f"{_slug(trial.name)}-{_slug(variant)}-{settings}.npy"


def _folder(concept: Concept, kept: Path) -> Path:
    folder = kept / f"{_slug(str(concept))}-{digest(training())}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def measure(pipe: DiffusionPipeline, options: Options) -> dict[str, dict[str, Readings]]:
    """What is read in the pictures of every variant and trial, all concepts together."""
    if unknown := set(options.variants) - set(VARIANTS):
        raise ValueError(f"efficacy: `variants` must be of {', '.join(VARIANTS)}; got {', '.join(unknown)}")
    names = ["base", *(name for name in options.variants if name != "base")]
    trials = [
        trial
        for trial in (Trial("alone", 0, options.alone), Trial("beside another", 1, options.beside))
        if trial.images
    ]
    taught = [teach(pipe, concept, options.kept) for concept in CONCEPTS]
    found: dict[str, dict[str, Readings]] = {name: {} for name in names}
    total = len(names) * len(CONCEPTS) * sum(trial.images for trial in trials)
    with tqdm(total=total, unit="picture", smoothing=0.02) as progress:
        for one in taught:
            for trial in trials:
                for name, found_here in _pictures(pipe, one, trial, names, options, progress):
                    _extend(found[name].setdefault(trial.name, {}), found_here)
    return found


@torch.no_grad()
def reader_rates(pipe: DiffusionPipeline) -> dict[str, dict[str, float]]:
    """How often the reader finds a concept in reference pictures, as drawn and after the autoencoder."""
    drawn, decoded = [], []
    for concept in CONCEPTS:
        pictures = [reference(concept, READER_SEED, index) for index in range(READER_PICTURES)]
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1.0
        images = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mode()).sample
        drawn += [shows(picture, concept) for picture in pictures]
        decoded += [shows(image, concept) for image in (images / 2 + 0.5).clamp(0, 1)]
    return {"drawn": asdict(Rate.of(drawn)), "decoded": asdict(Rate.of(decoded))}


def _pictures(
    pipe: DiffusionPipeline, taught: Taught, trial: Trial, names: list[str], options: Options, progress: Any
) -> list[tuple[str, Readings]]:
    """What is read in the pictures of one concept and trial, by variant; the base comes first."""
    concept = taught.concept
    sampling = sampling_of(concept, options)
    prompts = trial.prompts(concept, sampling.seed)
    plain: list[Seen] = []
    boxes, found = None, []
    for name in names:
        progress.set_description(f"{concept}, {trial.name}, {name}")
        kept = pictures_file(concept, trial, name, options)
        images = draw(pipe, taught, VARIANTS[name], prompts, boxes, sampling, kept, progress.update)
        if name == "base":
            plain = [Seen.of(image, concept) for image in images]
            boxes = class_boxes(plain, concept)
        found.append((name, readings(images, plain, prompts, concept)))
    return found


def _extend(all_readings: Readings, more: Readings) -> None:
    for name, values in more.items():
        all_readings.setdefault(name, []).extend(values)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def main() -> None:
    """Command-line entry."""
    options = tyro.cli(Options, description=__doc__)
    pipe = pipeline()
    pipe.unet.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
    found = measure(pipe, options)
    record = {
        "method": METHOD,
        "model": "weft.shapes",
        "concepts": [str(concept) for concept in CONCEPTS],
        "training": training(),
        "sampling": {"steps": options.steps, "guidance": options.guidance, "seed": options.seed},
        "reader": reader_rates(pipe),
        "variants": {name: asdict(VARIANTS[name]) for name in found},
        "results": MEASURES.summarise(found),
        "circumstances": circumstances(torch.get_num_threads(), "benchmarks.efficacy.residuals"),
    }
    publish(record, table, options.out)
