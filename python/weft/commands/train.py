"""``weft train``: teach a model something, with checkpoints that a later ``--resume`` goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Union

import torch
import tyro

import weft
from weft._files import output_folder
from weft.commands.loading import EMBEDDED, choose_device, load_pipeline
from weft.shapes.fitting.config import TrainConfig

# of the frozen model, by the precision that it computes in
WEIGHTS_DTYPE = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Strings = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT [TEXT ...]")]


@dataclass(frozen=True)
class TrainResidual:
    """Teach a frozen model one object from a few pictures (Personalized Residuals); the file is a LoRA as well."""

    images: Path
    """Folder with pictures of the object; four to eight are plenty."""
    class_word: str
    """What the object is one of, such as dog."""
    identifier: str = "V*"
    """How prompts name the object, before the class word; text that means nothing to the model yet."""
    out: Path = Path("residual.safetensors")
    """The file to write."""
    run: Path | None = None
    """Folder for checkpoints, log and validation pictures; beside --out if not given."""
    resume: bool = False
    """Go on from the last checkpoint of the run."""
    model: str = EMBEDDED
    """'embedded', a diffusers folder, or a model id (Stable Diffusion 1.x, 2.x, XL)."""
    steps: int = 150
    """Updates of the factors."""
    learning_rate: float = 1e-3
    """Of AdamW."""
    batch_size: int = 4
    """Pictures in one pass on one device."""
    accumulation: int = 1
    """Passes per update."""
    init: Literal["lora", "random"] = "lora"
    """lora begins at the base model; random does not."""
    resolution: int | None = None
    """Pixels; the model's own if not given."""
    crops: int = 1
    """Squares of each picture: its centre, and random ones."""
    flip: bool = False
    """Mirror images too."""
    seed: int = 0
    """Of the start, the noise and the order."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    validate_every: int | None = None
    """Steps between validation pictures; none if not given."""
    validation_prompts: Strings = ()
    """What they show; write {identifier} and {class_word} for the object."""
    tensorboard: bool = False
    """Log to a folder that tensorboard reads."""
    precision: Literal["auto", "no", "fp16", "bf16"] = "auto"
    """Of computing; auto is bf16 or fp16 on a GPU. The factors stay float32."""
    gradient_checkpointing: bool = False
    """Less memory, more time."""
    half: bool = False
    """Store float16, half the size."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1; under `accelerate launch` each process takes its own."""


@dataclass(frozen=True)
class Train:
    """Teach a model something new: residual for one object; or shapes, the embedded model itself."""

    what: Annotated[
        Union[  # noqa: UP007 - tyro reads the annotations of a Union's members
            Annotated[TrainResidual, tyro.conf.subcommand("residual")],
            Annotated[TrainConfig, tyro.conf.subcommand("shapes", description="Train the embedded model anew.")],
        ],
        tyro.conf.arg(name=""),
    ]


def train(options: Train) -> str:
    """Carry out ``weft train``; returns what to tell the user, nothing but on the main process.

    Raises:
        As ``weft.train.fit_residual``, and OSError where nothing can be written; found out before the model is loaded.
    """
    if isinstance(options.what, TrainResidual):
        return train_residual(options.what)
    from weft.shapes.train import train as train_shapes

    train_shapes(options.what)
    return f"trained: {options.what.run}"


def train_residual(options: TrainResidual) -> str:
    """Carry out ``weft train residual``."""
    from weft.train.accelerator import make_accelerator
    from weft.train.images import read_images
    from weft.train.loop import LoopConfig
    from weft.train.residual import ResidualConfig, fit_residual

    out = options.out
    if out.suffix != ".safetensors" or out.is_dir():
        raise ValueError(f"train residual: --out must be a file that ends in .safetensors; got {out}")
    config = ResidualConfig(
        loop=LoopConfig(
            steps=options.steps,
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
            accumulation=options.accumulation,
            checkpoint_every=options.checkpoint_every,
        ),
        init=options.init,
        resolution=options.resolution,
        crops=options.crops,
        flip=options.flip,
        seed=options.seed,
        precision=options.precision,
        gradient_checkpointing=options.gradient_checkpointing,
        validate_every=options.validate_every,
        validation_prompts=options.validation_prompts,
        tensorboard=options.tensorboard,
    )
    images = read_images(options.images)
    output_folder(out.parent, who="train residual")
    run = output_folder(options.run or out.with_suffix(".run"), who="train residual")
    device = choose_device(options.device)
    # before the model: under `accelerate launch` it makes each process's GPU the current one
    accelerator = make_accelerator(device, config.precision, run, tensorboard=config.tensorboard)
    pipe = load_pipeline(options.model, WEIGHTS_DTYPE[accelerator.mixed_precision], device)
    pipe.set_progress_bar_config(disable=True)
    residual = fit_residual(
        pipe,
        images,
        options.class_word,
        options.identifier,
        config=config,
        folder=run,
        resume=options.resume,
        accelerator=accelerator,
        base_name=EMBEDDED if options.model == EMBEDDED else None,
    )
    accelerator.end_training()
    if not accelerator.is_main_process:
        return ""
    residual.save(out, torch.float16 if options.half else torch.float32)
    numbers = sum(factor.numel() for factor in (*residual.down.values(), *residual.up.values()))
    return (
        f"residual: {out} ({numbers:,} numbers in {len(residual.down)} layers, {out.stat().st_size / 1e6:.2f} MB); "
        f'say "{residual.phrase}" in a prompt; run: {run}; weft {weft.__version__}'
    )
