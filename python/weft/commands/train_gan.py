"""``weft train gan``: a text-to-image GAN, with or without losses over pairs of generated pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import weft
from weft._device import choose_device
from weft._files import output_folder
from weft.commands.distribution import READ_BY_ONE, ReadBy, check_read
from weft.commands.numbers import check_numbers
from weft.commands.training import config_of

SHAPES = "shapes"
_READ_BY: ReadBy = {
    **READ_BY_ONE,
    ("f2f",): (*READ_BY_ONE["f2f",], "both_views"),
    ("f2f", "f2r"): ("features", "class_mask"),
}


@dataclass(frozen=True)
class TrainGan:
    """Train a text-to-image GAN from pictures with captions, with losses that make pictures of one thing agree."""

    data: str = SHAPES
    """'shapes' for the embedded world; a folder with metadata.jsonl, or as CUB or COCO have it."""
    baseline: Literal["ssa", "attn"] = "ssa"
    """SSA-GAN's design, or AttnGAN's."""
    losses: str = "none"
    """none, f2f (generated pictures agree), f2r (and agree with real ones), or f2f,f2r."""
    out: Path = Path("gan")
    """Folder for the generator: generator.safetensors and config.json."""
    run: Path | None = None
    """Folder for checkpoints, log, the matching model and samples; beside --out if not given."""
    resume: bool = False
    """Go on from the last checkpoint of the run."""
    size: Literal["cpu", "published"] = "cpu"
    """Of the networks: cpu learns the shapes world on one core."""
    resolution: int = 64
    """Pixels, 64 to 256: multiples of 16 up to 128, of 32 from there on."""
    style_blocks: bool = False
    """With attn: a style made of noise and sentence scales and shifts the norms."""
    length: int = 18
    """Words of a caption that are read (tokens, with --text)."""
    steps: int = 1500
    """Updates of the generator."""
    batch_size: int = 16
    """Pictures on one device in one step."""
    accumulation: int = 1
    """Passes per step."""
    decay_steps: int = 0
    """Of the learning rates at the end, to zero."""
    average_decay: float = 0.999
    """Of the generator's moving average, a step, which is what is written; 0 for none."""
    max_skipped: int = 0
    """Steps that may be left out because their loss or gradients are not finite."""
    matching_folder: Path | None = None
    """Of a matching model that another run has trained (its folder `matching`); one is trained first if not given."""
    matching_steps: int | None = None
    """Updates of the matching model; those of its size if not given."""
    text: Path | None = None
    """Folder of a text encoder of transformers, or of a diffusers pipeline; a small one is trained if not given."""
    vision: Path | None = None
    """Folder of a vision model of transformers, for the matching model; a small one is trained if not given."""
    pairing: Literal["two_captions", "two_noises"] = "two_captions"
    """What the second picture of f2f is: another caption with the same noise, or another noise with the same."""
    features: Literal["matching", "discriminator"] = "matching"
    """What f2f and f2r look at pictures with."""
    f2f_weight: float = 0.2
    """Of fake-to-fake in the generator's loss."""
    f2f_temperature: float = 0.5
    """Of its softmax."""
    f2r_weight: float = 1.0
    """Of fake-to-real."""
    f2r_temperature: float = 0.1
    """Of its softmax."""
    symmetric: bool = True
    """Whether real pictures look for their generated ones in f2r, too."""
    class_mask: bool | None = None
    """Whether pictures of one class are no negatives; where classes are known, if not given."""
    both_views: bool = True
    """Whether the discriminator sees the second picture, too."""
    scenes: int = 8000
    """With shapes: how many different pictures."""
    captions: int = 8
    """With shapes: wordings of each."""
    split: str = "train"
    """With CUB and COCO: train or test; train2014 or val2014."""
    crop: bool = False
    """A random square of a somewhat larger picture, each time another."""
    flip: bool = False
    """Mirror images too; wrong where captions tell left from right."""
    seed: int = 0
    """Of the start, the noise and the order."""
    sample_every: int | None = 250
    """Steps between grids of samples."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    tensorboard: bool = False
    """Log to a folder that tensorboard reads."""
    precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    """Of computing; auto is bf16 or fp16 on a GPU. What is trained stays float32."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1; under `accelerate launch` each process takes its own."""


def train_gan(options: TrainGan) -> str:
    """Carry out ``weft train gan``."""
    from weft.train.core import make_accelerator
    from weft.train.gan import GanConfig, fit_gan

    check_read(options, _READ_BY, who="train gan")
    check_numbers(options, who="train gan")
    out = output_folder(options.out, who="train gan")
    beside = options.out.with_name(f"{options.out.name}.run")
    run = output_folder(options.run or beside, who="train gan", option="--run")
    config = config_of(GanConfig, options)
    if options.style_blocks:
        config = replace(config, recipe=replace(config.chosen, style_blocks=True))
    if options.matching_steps is not None:
        config = replace(config, matching=replace(config.chosen_matching, steps=options.matching_steps))
    config.check(run)
    accelerator = make_accelerator(
        choose_device(options.device), options.precision, run, tensorboard=options.tensorboard
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
        f"gan: {out} ({options.baseline}, losses {options.losses}, {numbers:,} numbers, {generator.resolution} "
        f"pixels); weft.train.Generator.load draws with it; run: {run}; weft {weft.__version__}"
    )


def _pictures(options: TrainGan) -> Any:
    if options.data != SHAPES:
        return options.data
    from weft.shapes import CaptionedScenes

    return CaptionedScenes(options.scenes, captions=options.captions)
