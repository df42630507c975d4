"""``weft train gan``: a text-to-image GAN, with or without losses over pairs of generated pictures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

import weft
from weft._device import choose_device
from weft._files import output_folder
from weft.commands.distribution import READ_BY_ONE, ReadBy, check_read
from weft.commands.numbers import check_numbers
from weft.commands.training import RunOptions
from weft.train.gan import GanConfig

SHAPES = "shapes"
_READ_BY: ReadBy = {
    **READ_BY_ONE,
    ("f2f",): (*READ_BY_ONE["f2f",], "both_views"),
    ("f2f", "f2r"): ("features", "class_mask"),
}


@dataclass(frozen=True, kw_only=True)
class TrainGan(RunOptions):
    """Train a text-to-image GAN from pictures with captions, with losses that make pictures of one thing agree."""

    data: str = SHAPES
    """'shapes' for the embedded world; a folder with metadata.jsonl, or as CUB or COCO have it."""
    out: Path = Path("gan")
    """Folder for the generator: generator.safetensors and config.json."""
    style_blocks: bool = False
    """With attn: a style made of noise and sentence scales and shifts the norms."""
    matching_steps: int | None = None
    """Updates of the matching model; those of its size if not given."""
    text: Path | None = None
    """Folder of a text encoder of transformers, or of a diffusers pipeline; a small one is trained if not given."""
    vision: Path | None = None
    """Folder of a vision model of transformers, for the matching model; a small one is trained if not given."""
    scenes: int = 8000
    """With shapes: how many different pictures."""
    captions: int = 8
    """With shapes: wordings of each."""
    config: Annotated[GanConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=GanConfig)


def train_gan(options: TrainGan) -> str:
    """Carry out ``weft train gan``."""
    from weft.train.core import make_accelerator
    from weft.train.gan import fit_gan

    config = options.config
    check_read(config, _READ_BY, losses=config.losses, who="train gan")
    check_numbers(config, who="train gan")
    out = output_folder(options.out, who="train gan")
    beside = options.out.with_name(f"{options.out.name}.run")
    run = output_folder(options.run or beside, who="train gan", option="--run")
    if options.style_blocks:
        config = replace(config, recipe=replace(config.chosen, style_blocks=True))
    if options.matching_steps is not None:
        config = replace(config, matching=replace(config.chosen_matching, steps=options.matching_steps))
    config.check(run)
    accelerator = make_accelerator(
        choose_device(options.device), config.precision, run, tensorboard=config.tensorboard
    )
    generator = fit_gan(
        _pictures(options),
        config=config,
        folder=run,
        resume=options.resume,
        accelerator=accelerator,
        text=options.text,
        vision=options.vision,
    )
    accelerator.end_training()
    if not accelerator.is_main_process:
        return ""
    generator.save(out)
    numbers = sum(parameter.numel() for parameter in generator.network.parameters())
    return (
        f"gan: {out} ({config.baseline}, losses {config.losses}, {numbers:,} numbers, {generator.resolution} "
        f"pixels); weft.train.Generator.load draws with it; run: {run}; weft {weft.__version__}"
    )


def _pictures(options: TrainGan) -> Any:
    if options.data != SHAPES:
        return options.data
    from weft.shapes import CaptionedScenes

    return CaptionedScenes(options.scenes, captions=options.captions)
