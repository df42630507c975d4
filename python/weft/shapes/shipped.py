"""The shipped models by name, and where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

# a UNet with cross-attention; an MM-DiT with joint attention; that UNet, taught to paint into holes
Model = Literal["sd1", "sd3", "inpainting"]

_MODELS = Path(__file__).parent / "models"
WEIGHTS: dict[Model, Path] = {"sd1": _MODELS / "sd1", "sd3": _MODELS / "sd3", "inpainting": _MODELS / "inpainting"}
PROMPTS = "task_prompts.safetensors"  # in the folder of the inpainting model


def model_path(model: Model = "sd1") -> Path:
    """Folder of a shipped pipeline, for ``from_pretrained``.

    ``StableDiffusionPipeline`` takes "sd1" as it is, and ``StableDiffusionInpaintPipeline`` "inpainting", whose folder
    ``weft.TaskPrompts.load`` takes as well. "sd3" has the autoencoder of "sd1" and no T5; ``StableDiffusion3Pipeline``
    needs ``vae=AutoencoderKL.from_pretrained(model_path() / "vae", shift_factor=0.0), text_encoder_3=None,
    tokenizer_3=None``, which ``weft.shapes.pipeline("sd3")`` gives itself.

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
