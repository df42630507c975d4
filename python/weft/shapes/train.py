"""Train a shapes model: ``python -m weft.shapes.train --run runs/shapes --model sd3``.

The same command resumes an interrupted run. ``--diffusion.decay-from STEP`` ends the plateau there and finishes;
for sd3 it is ``--flow.decay-from``, for inpainting ``--inpainting.decay-from``.
"""

from __future__ import annotations

import dataclasses
import json
import sys

import torch
import tyro
from accelerate import Accelerator

from weft.train.core import Interrupted

from .fitting.config import TrainConfig
from .fitting.diffusion import fit_diffusion
from .fitting.export import export
from .fitting.flow import fit_flow
from .fitting.inpainting import fit_inpainting
from .fitting.plain_vae import PLAIN, fit_plain_vae
from .fitting.vae import fit_vae


def train(config: TrainConfig) -> None:
    """Run the stages of ``config`` in order; each one reads what the one before wrote to the run folder."""
    config.run.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision=config.precision, cpu=config.cpu)
    if accelerator.is_main_process:
        record = {"config": dataclasses.asdict(config), "torch": torch.__version__}
        (config.run / "config.json").write_text(json.dumps(record, indent=2, default=str) + "\n")

    if "vae" in config.stages:
        if config.model == "inpainting":
            fit_plain_vae(config.plain, config.seed, config.run / PLAIN, accelerator)
        else:
            fit_vae(config.vae, config.seed, config.run / "vae", accelerator)
    if "diffusion" in config.stages:
        if config.model == "sd1":
            fit_diffusion(config.diffusion, config.seed, config.run, accelerator)
        elif config.model == "sd3":
            fit_flow(config.flow, config.seed, config.run, accelerator)
        else:
            fit_inpainting(config.inpainting, config.seed, config.run, accelerator)
    if "export" in config.stages and accelerator.is_main_process:
        export(config.run, config.export_to or config.run / config.model, config.model)


def main() -> None:
    """Command-line entry."""
    try:
        train(tyro.cli(TrainConfig, description=__doc__))
    except Interrupted as stop:
        print(f"{stop}; the same command does it")
        sys.exit(130)


if __name__ == "__main__":
    main()
