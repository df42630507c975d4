"""Device, precision and tracker of a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from accelerate import Accelerator

from weft.train.core.config import Precision


def make_accelerator(
    device: torch.device, precision: Precision = "auto", folder: Path | None = None, *, tensorboard: bool = False
) -> Accelerator:
    """An accelerator for models on ``device``; all of a process share one precision.

    Args:
        precision: Of computing; auto is bf16 or fp16 on a GPU, none on a CPU.
        folder: Gets the folder of ``tensorboard``, which is a tracker of that name.
    """
    if precision == "auto":
        precision = "no" if device.type == "cpu" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        # accelerate would leave it out without a word
        raise ValueError("train: a tensorboard log needs its package: pip install tensorboard")
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=device.type == "cpu",
        log_with="tensorboard" if tensorboard else None,
        project_dir=folder,
    )
    if tensorboard:
        accelerator.init_trackers("tensorboard")
    return accelerator
