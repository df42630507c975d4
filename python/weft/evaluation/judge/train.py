"""Teach the judge: ``python -m weft.evaluation.judge.train``. About eight minutes of one core."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from weft._files import output_folder, whole_file
from weft.evaluation.judge.judge import FOLDER, WEIGHTS, Judge
from weft.evaluation.judge.lessons import Scenes
from weft.evaluation.retrieval import r_precision
from weft.ops import contrastive_loss
from weft.shapes.caption_reader import objects_of
from weft.shapes.captions import caption, near_misses
from weft.shapes.measuring import Rate
from weft.shapes.rendering import render
from weft.shapes.world import Split, scene


@dataclass(frozen=True)
class JudgeTraining:
    """Train the judge to distinguish captions of rendered scenes."""

    out: Path = FOLDER
    """Folder of the weights, their quality and how they were made."""
    steps: int = 1200
    """Updates."""
    batch_size: int = 192
    """Images a step, each with a caption and a near miss."""
    learning_rate: float = 2e-3
    """Of AdamW, at its highest."""
    warmup: int = 50
    """Steps until it is reached; from there it falls along a cosine."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    scenes: int = 40_000
    """Drawn once, then shown many times, each time degraded differently."""
    seed: int = 770_000
    """Of everything; no other part of the project draws scenes from it."""
    examined: int = 2000
    """Fresh scenes of either split that the quality is measured on."""


def teach(config: JudgeTraining) -> Judge:
    """Carry out the training on the CPU, in bfloat16 with parameters in float32.

    Returns:
        The judge, ready to judge.
    """
    torch.manual_seed(config.seed)
    judge, training_scenes = Judge(), Scenes(config.scenes, config.seed)
    judge.image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(judge.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    rng = np.random.default_rng(config.seed)
    with tqdm(range(config.steps), desc="judge", unit="step", mininterval=2) as progress:
        for _ in progress:
            chosen = rng.choice(len(training_scenes), config.batch_size, replace=False).tolist()
            images, texts, meanings = training_scenes.batch(chosen, rng)

            with torch.autocast("cpu", torch.bfloat16):
                features = judge.image(images.contiguous(memory_format=torch.channels_last))
                shown, described = judge.embed_images(features), judge.embed_texts(texts)
            loss = _loss(shown.float(), described.float(), meanings, judge.log_temperature.exp())

            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return judge.eval().requires_grad_(False)


def _loss(shown: Tensor, described: Tensor, meanings: Tensor, temperature: Tensor) -> Tensor:
    """Symmetric InfoNCE; a caption with the same meaning is no negative, a near miss is no image's positive."""
    images = torch.arange(len(shown))
    missed_columns = torch.arange(len(shown), len(described))
    return contrastive_loss(
        shown,
        described,
        positives=(images, torch.cat([images, missed_columns])),
        classes=(meanings[: len(shown)], meanings),
        temperature=temperature,
        symmetric=True,
    )


def _rate(step: int, config: JudgeTraining) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - config.warmup) / max(config.steps - config.warmup, 1))


@torch.no_grad()
def quality(judge: Judge, examined: int, seed: int) -> dict[str, Any]:
    """How often the judge finds the caption of a clean scene among 100, and prefers it to one that is nearly right."""
    found: dict[str, Any] = {}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        scenes = [scene(seed + 1, i, split) for i in range(examined)]
        rng = np.random.default_rng(seed + 1)
        texts = [caption(one, rng, is_complete=True) for one in scenes]
        wrong = [near_misses(one, rng, 1)[0] for one in scenes]
        pixels = torch.from_numpy(np.stack([render(one) for one in scenes])).permute(0, 3, 1, 2) / 127.5 - 1
        shown = torch.cat([judge.embed_images(judge.image(part)) for part in torch.split(pixels, 256)])
        described, missed = judge.embed_texts(texts), judge.embed_texts(wrong)
        precision = r_precision(shown, described, [objects_of(text) for text in texts], seed=seed)
        found[split] = {
            "scenes": examined,
            "r_precision": {"mean": precision.mean, "std": precision.std, "chance": precision.chance},
            "right_before_near_miss": asdict(Rate.of(((shown * described).sum(1) > (shown * missed).sum(1)).tolist())),
        }
    return found


def main() -> None:
    """Command-line entry."""
    config = tyro.cli(JudgeTraining, description=__doc__)
    folder = output_folder(config.out, who="judge.train")
    began = time.process_time()
    judge = teach(config)
    seconds = round(time.process_time() - began)
    judge.save(folder, training={**asdict(config), "out": None}, torch=torch.__version__, seconds_of_processor=seconds)
    # what is measured is what was stored: float16
    found = quality(Judge.load(folder), config.examined, config.seed)
    with whole_file(folder / "quality.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    for split, numbers in found.items():
        precision, near = numbers["r_precision"], numbers["right_before_near_miss"]
        print(
            f"{split}: own caption of 100 {100 * precision['mean']:.1f} ± {100 * precision['std']:.1f} %, "
            f"before a near miss {100 * near['value']:.1f} %"
        )
    print(f"{folder / WEIGHTS}: {(folder / WEIGHTS).stat().st_size / 1e6:.2f} MB, {seconds} s of one core")


if __name__ == "__main__":
    main()
