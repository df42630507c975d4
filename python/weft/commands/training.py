"""What every ``weft train`` of a diffusion pipeline begins with: where it writes, on what it runs, and the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from weft._device import choose_device, choose_dtype
from weft._files import output_folder
from weft.commands.loading import load_pipeline
from weft.commands.numbers import check_numbers
from weft.train.core import FitConfig

if TYPE_CHECKING:
    import torch

Load: TypeAlias = "Callable[[str, torch.dtype, torch.device], Any]"  # as ``loading.load_pipeline``

# of the frozen model, by the precision that it computes in
WEIGHTS_DTYPE = {"no": "float32", "fp16": "float16", "bf16": "bfloat16"}


class Options(Protocol):
    """What ``prepare`` reads."""

    @property
    def out(self) -> Path: ...
    @property
    def run(self) -> Path | None: ...
    @property
    def model(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def config(self) -> FitConfig: ...


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of every run beside its configuration."""

    run: Path | None = None
    """Folder for checkpoints, log and validation pictures; beside --out if not given."""
    resume: bool = False
    """Go on from the last checkpoint of the run."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1; under `accelerate launch` each process takes its own."""


@dataclass(frozen=True)
class Prepared:
    """What training needs.

    Attributes:
        run: Folder of the run.
        accelerator: Of the accelerate library.
        pipe: On its device.
    """

    run: Path
    accelerator: Any
    pipe: Any


def check_out(out: Path, *, who: str) -> None:
    """Refuse a file of another kind than safetensors."""
    if out.suffix != ".safetensors" or out.is_dir():
        raise ValueError(f"{who}: --out must be a file that ends in .safetensors; got {out}")


def prepare(options: Options, *, who: str, load: Load = load_pipeline) -> Prepared:
    """Make the folders and load the model.

    Args:
        load: What makes a pipeline of --model.

    Raises:
        OSError: Nothing can be written there; found out before the model is loaded.
        ValueError: An unknown device, a number out of its range, or a model that cannot be loaded.
    """
    from weft.train.core import make_accelerator

    config = options.config
    check_numbers(config, who=who)
    output_folder(options.out.parent, who=who)
    run = output_folder(options.run or options.out.with_suffix(".run"), who=who, option="--run")
    device = choose_device(options.device)
    # before the model: under `accelerate launch` it makes each process's GPU the current one
    accelerator = make_accelerator(device, config.precision, run, tensorboard=config.tensorboard)
    pipe = load(options.model, choose_dtype(WEIGHTS_DTYPE[accelerator.mixed_precision], device), device)
    pipe.set_progress_bar_config(disable=True)
    return Prepared(run, accelerator, pipe)
