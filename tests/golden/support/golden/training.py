"""Rows of training: runs of two steps, begun or continued from the stored checkpoints."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState

import weft
from golden import internals, models
from golden.inputs import Draw
from golden.row import Tensors, add_row, compact
from golden.store import RECORD
from weft import shapes
from weft.train import (
    Generator,
    LoopConfig,
    ResidualConfig,
    SoftTokensConfig,
    TaskPromptsConfig,
    fit_gan,
    fit_residual,
    fit_soft_tokens,
    fit_task_prompts,
)

# AdamW divides a gradient by its size, so that rounding of a small one is a larger share of its step
TOLERANCE = 2e-3
STEPS = 2  # of a stored run; one that goes on takes as many again


def pairs() -> list[Mapping[str, Any]]:
    """Pictures with one caption or two, and a wrong one."""
    captions = (["a red circle"], ["a blue square", "a square"], ["a green star and a red ring"])
    return [
        {"image": models.picture(number), "text": texts, "negatives": ["a blue ring"]}
        for number, texts in enumerate(captions)
    ]


def _loop(steps: int) -> LoopConfig:
    return LoopConfig(steps=steps, learning_rate=1e-2, batch_size=2, log_every=1)


def _residual(steps: int, **run: Any) -> Tensors:
    pictures = [models.picture(number) for number in range(3)]
    config = ResidualConfig(loop=_loop(steps), precision="no")
    # the kernel of the CPU is for larger ranks, see the rows of ``lowrank_linear``
    with weft.backend("reference"):
        found = fit_residual(
            models.pipeline("sd1"), pictures, "circle", "V*", config=config, base_name="golden", **run
        )
    return {f"{side} {name}": value for side in ("down", "up") for name, value in getattr(found, side).items()}


def _soft_tokens(steps: int, objective: Any = "agsm", **run: Any) -> Tensors:
    config = SoftTokensConfig(loop=_loop(steps), objective=objective, time_buckets=4, negatives=1, precision="no")
    found = fit_soft_tokens(models.pipeline("sd1"), pairs(), config=config, base_name="golden", **run)
    assert found.offsets is not None
    return {"tokens": found.tokens, "offsets": found.offsets}


def _task_prompts(steps: int, **run: Any) -> Tensors:
    config = TaskPromptsConfig(loop=_loop(steps), count=4, precision="no")
    scenes = shapes.MaskedScenes(12)
    found = fit_task_prompts(models.pipeline("inpainting"), scenes, config=config, base_name="golden", **run)
    return {str(name): vectors[0] for name, vectors in found.vectors.items()}


# runs whose checkpoint is stored
RUNS: dict[str, Callable[..., Tensors]] = {
    "residual": _residual,
    "soft-tokens": _soft_tokens,
    "task-prompts": _task_prompts,
}


def accelerator() -> Accelerator:
    """One that knows of none before it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=True)


def begin(kind: str, folder: Path) -> None:
    """Train for the first steps and leave a run in ``folder``."""
    RUNS[kind](STEPS, folder=folder, accelerator=accelerator())


def _go_on(kind: str) -> Tensors:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(RECORD / f"files/run-{kind}", folder, dirs_exist_ok=True)
        return compact(RUNS[kind](2 * STEPS, folder=folder, resume=True, accelerator=accelerator()))


def trained_generator(baseline: str) -> Generator:
    """A narrow one after a step."""
    scenes = shapes.CaptionedScenes(12, captions=4)
    return fit_gan(scenes, config=internals.smallest_gan(baseline), accelerator=accelerator())


def _drawn(generator: Generator) -> Tensors:
    captions = ["a red circle", "a blue square and a green star"]
    return compact({"picture": generator(captions, Draw(60).normal(2, generator.noise_width))})


def _encoded() -> Tensors:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(RECORD / "files/encoded-pairs", folder, dirs_exist_ok=True)
        return compact(_soft_tokens(STEPS, encoded=folder, accelerator=accelerator()))


for _kind in RUNS:
    add_row(f"training/{_kind}-resumed", partial(_go_on, _kind), TOLERANCE)
    add_row(
        f"training/{_kind}-begun",
        lambda kind=_kind: compact(RUNS[kind](STEPS, accelerator=accelerator())),
        TOLERANCE,
    )
add_row(
    "training/soft-tokens-contrast",
    lambda: compact(_soft_tokens(STEPS, "contrast", accelerator=accelerator())),
    TOLERANCE,
)
add_row("training/soft-tokens-encoded", _encoded, TOLERANCE)
for _baseline in ("ssa", "attn"):
    add_row(f"training/generator-{_baseline}", lambda base=_baseline: _drawn(trained_generator(base)), TOLERANCE)
    add_row(
        f"training/generator-{_baseline}-loaded",
        lambda base=_baseline: _drawn(Generator.load(RECORD / f"files/generator-{base}/generator")),
        TOLERANCE,
    )
