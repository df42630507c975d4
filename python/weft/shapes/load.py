"""The shipped models as stock diffusers pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import torch

if TYPE_CHECKING:
    from diffusers import (
        DiffusionPipeline,
        StableDiffusion3Pipeline,
        StableDiffusionInpaintPipeline,
        StableDiffusionPipeline,
    )

# a UNet with cross-attention; an MM-DiT with joint attention; that UNet, taught to paint into holes
Model = Literal["sd1", "sd3", "inpainting"]

WEIGHTS: dict[Model, Path] = {
    "sd1": Path(__file__).parent / "weights",
    "sd3": Path(__file__).parent / "weights-sd3",
    "inpainting": Path(__file__).parent / "weights-inpainting",
}
PROMPTS = "task_prompts.safetensors"  # in the folder of the inpainting model


def model_path(model: Model = "sd1") -> Path:
    """Folder of a shipped pipeline, for ``from_pretrained``.

    ``StableDiffusionPipeline`` takes "sd1" as it is, and ``StableDiffusionInpaintPipeline`` "inpainting", whose folder
    ``weft.TaskPrompts.load`` takes as well. ``StableDiffusion3Pipeline`` must be told that there is no T5,
    as of any such folder: ``text_encoder_3=None, tokenizer_3=None``.

    Raises:
        ValueError: There is no model of that name.
        FileNotFoundError: The package was installed without its weights.
    """
    if model not in WEIGHTS:
        raise ValueError(f"weft.shapes: `model` must be one of {', '.join(map(repr, WEIGHTS))}; got {model!r}")
    folder = WEIGHTS[model]
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"weft.shapes: no model in {folder}; reinstall weft with its package data, or train one with "
            f"`python -m weft.shapes.train --model {model} --export-to {folder}`"
        )
    return folder


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
    return open_pipeline(model_path(model), dtype).to(device)


def open_pipeline(folder: Path, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """Load any diffusers folder, without those parts that it says it does not have, and with no progress bar."""
    # here, so that the names of the models cost a command line nothing
    from diffusers import DiffusionPipeline

    index = json.loads((folder / "model_index.json").read_text())
    absent = {name: None for name, value in index.items() if value == [None, None]}
    pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, **absent)
    pipe.set_progress_bar_config(disable=True)
    return pipe
