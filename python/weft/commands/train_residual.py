"""``weft train residual``: one object, from a few pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

import weft
from weft.commands.distribution import DistributionOptions, distribution_of
from weft.commands.loading import EMBEDDED
from weft.commands.training import RunOptions, check_out, config_of, prepare

Strings = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT [TEXT ...]")]


@dataclass(frozen=True)
class _Residual:
    """What is learnt, from what, and how."""

    images: Path
    """Folder with pictures of the object; four to eight are plenty."""
    class_word: str
    """What the object is one of, such as dog."""
    identifier: str = "V*"
    """How prompts name the object, before the class word; text that means nothing to the model yet."""
    out: Path = Path("residual.safetensors")
    """The file to write."""
    model: str = EMBEDDED
    """'embedded', a diffusers folder, or a model id (Stable Diffusion 1.x, 2.x, XL)."""
    steps: int = 150
    """Updates of the factors."""
    learning_rate: float = 1e-3
    """Of AdamW."""
    batch_size: int = 4
    """Pictures in one pass on one device; with --losses 2 at least, for they are told from one another."""
    accumulation: int = 1
    """Passes per update."""
    init: Literal["lora", "random"] = "lora"
    """lora begins at the base model; random does not."""
    crops: int = 1
    """Squares of each picture: its centre, and random ones."""
    flip: bool = False
    """Mirror images too."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    validation_prompts: Strings = ()
    """What the pictures of --validate-every show; write {identifier} and {class_word} for the object."""
    half: bool = False
    """Store float16, half the size."""


@dataclass(frozen=True)
class TrainResidual(RunOptions, DistributionOptions, _Residual):
    """Teach a frozen model one object from a few pictures (Personalized Residuals); the file is a LoRA as well."""


def train_residual(options: TrainResidual) -> str:
    """Carry out ``weft train residual``."""
    import torch

    from weft.train.core import LoopConfig
    from weft.train.pictures import read_images
    from weft.train.residual import ResidualConfig, fit_residual

    check_out(options.out, who="train residual")
    loop = config_of(LoopConfig, options)
    distribution = distribution_of(options, who="train residual")
    config = config_of(ResidualConfig, options, loop=loop, distribution=distribution)
    images = read_images(options.images)
    made = prepare(options, who="train residual")
    residual = fit_residual(
        made.pipe,
        images,
        options.class_word,
        options.identifier,
        config=config,
        folder=made.run,
        resume=options.resume,
        accelerator=made.accelerator,
        base_name=EMBEDDED if options.model == EMBEDDED else None,
    )
    made.accelerator.end_training()
    if not made.accelerator.is_main_process:
        return ""
    out = options.out
    residual.save(out, torch.float16 if options.half else torch.float32)
    numbers = sum(factor.numel() for factor in (*residual.down.values(), *residual.up.values()))
    return (
        f"residual: {out} ({numbers:,} numbers in {len(residual.down)} layers, {out.stat().st_size / 1e6:.2f} MB); "
        f'say "{residual.phrase}" in a prompt; run: {made.run}; weft {weft.__version__}'
    )
