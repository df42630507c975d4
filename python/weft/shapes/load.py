"""The shipped models as stock diffusers pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from weft._device import dtype_argument

from .shipped import Model, model_path

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        DiffusionPipeline,
        StableDiffusion3Pipeline,
        StableDiffusionInpaintPipeline,
        StableDiffusionPipeline,
    )


@overload
def pipeline(
    model: Literal["sd1"] = "sd1", dtype: torch.dtype = ..., device: str | torch.device = ...
) -> StableDiffusionPipeline: ...


@overload
def pipeline(
    model: Literal["inpainting"], dtype: torch.dtype = ..., device: str | torch.device = ...
) -> StableDiffusionInpaintPipeline: ...


@overload
def pipeline(
    model: Literal["sd3"], dtype: torch.dtype = ..., device: str | torch.device = ...
) -> StableDiffusion3Pipeline: ...


def pipeline(
    model: Model = "sd1", dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> DiffusionPipeline:
    """Load a shipped model.

    Args:
        model: "sd1", a UNet in a ``StableDiffusionPipeline``; "sd3", an MM-DiT in a ``StableDiffusion3Pipeline``; or
            "inpainting", a UNet in a ``StableDiffusionInpaintPipeline``.
        dtype: Of weights and activations.
        device: Where to put it.

    Returns:
        A stock pipeline for 64x64 images with its progress bar off.

    Raises:
        ValueError: There is no model of that name.
        FileNotFoundError: The package was installed without its weights.
    """
    folder = model_path(model)
    shared = {} if (folder / "vae").is_dir() else {"vae": _autoencoder(dtype)}
    return open_pipeline(folder, dtype, **shared).to(device)


def _autoencoder(dtype: torch.dtype) -> AutoencoderKL:
    """That of "sd1" for "sd3", whose pipeline adds ``shift_factor`` to the latents; its weights are stored once."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(model_path("sd1") / "vae", shift_factor=0.0, **dtype_argument(dtype))


def open_pipeline(folder: Path, dtype: torch.dtype = torch.float32, **parts: Any) -> DiffusionPipeline:
    """Load any diffusers folder, without those parts that it says it does not have, and with no progress bar.

    Args:
        folder: It.
        dtype: Of weights and activations.
        parts: By name, what is taken in place of what lies in the folder.
    """
    # here, so that the names of the models cost a command line nothing
    from diffusers import DiffusionPipeline

    index = json.loads((folder / "model_index.json").read_text())
    absent = {name: None for name, value in index.items() if value == [None, None]}
    pipe = DiffusionPipeline.from_pretrained(folder, **dtype_argument(dtype), **absent, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe
