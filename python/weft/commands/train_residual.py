"""``weft train residual``: one object, from a few pictures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

import weft
from weft.commands.distribution import NamedLossesAndFeatures, with_losses
from weft.commands.loading import EMBEDDED
from weft.commands.training import RunOptions, check_out, prepare
from weft.train.residual import ResidualConfig


@dataclass(frozen=True, kw_only=True)
class TrainResidual(RunOptions):
    """Teach a frozen model one object from a few pictures (Personalized Residuals); the file is a LoRA as well."""

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
    half: bool = False
    """Store float16, half the size."""
    config: Annotated[ResidualConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=ResidualConfig)
    named: Annotated[NamedLossesAndFeatures, tyro.conf.OmitArgPrefixes] = field(default_factory=NamedLossesAndFeatures)


def train_residual(options: TrainResidual) -> str:
    """Carry out ``weft train residual``."""
    import torch

    from weft.train.pictures import read_images
    from weft.train.residual import fit_residual

    check_out(options.out, who="train residual")
    distribution = with_losses(options.config.distribution, options.named, who="train residual")
    images = read_images(options.images)
    made = prepare(options, who="train residual")
    residual = fit_residual(
        made.pipe,
        images,
        options.class_word,
        options.identifier,
        config=replace(options.config, distribution=distribution),
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
