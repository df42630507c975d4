"""The shipped model as a stock diffusers pipeline."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

WEIGHTS = Path(__file__).parent / "weights"


def model_path() -> Path:
    """Folder of the shipped text-to-image pipeline; ``StableDiffusionPipeline.from_pretrained`` takes it as it is.

    Raises:
        FileNotFoundError: The package was installed without its weights.
    """
    if not (WEIGHTS / "model_index.json").is_file():
        raise FileNotFoundError(
            f"weft.shapes: no model in {WEIGHTS}; reinstall weft with its package data, or train one with "
            f"`python -m weft.shapes.train --export-to {WEIGHTS}`"
        )
    return WEIGHTS


def pipeline(dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> StableDiffusionPipeline:
    """Load the shipped model.

    Args:
        dtype: Of weights and activations.
        device: Where to put it.

    Returns:
        A stock pipeline for 64x64 images with its progress bar off.

    Raises:
        FileNotFoundError: The package was installed without its weights.
    """
    pipe = StableDiffusionPipeline.from_pretrained(model_path(), torch_dtype=dtype).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe
