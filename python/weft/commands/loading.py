"""A pipeline from what a user types: nothing for the embedded model, else another of these, a folder or a model id."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from weft.shapes.shipped import Model

EMBEDDED = "embedded"
# what a user calls the shipped models, and ``weft.shapes``: a UNet, and a joint transformer as in Stable Diffusion 3
EMBEDDED_MODELS: dict[str, Model] = {EMBEDDED: "sd1", "embedded-sd3": "sd3"}


def choose_device(device: str) -> torch.device:
    """``device`` itself, or for "auto" the first GPU if there is one.

    Raises:
        ValueError: It is not a device, or torch does not see it here.
    """
    import torch  # here, as in every command: help and a refusal come at once

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"--device must be auto, cpu or cuda[:index]; got {device!r}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch {torch.__version__} sees no CUDA device here; use --device cpu")
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of that name, or for "auto" float16 on a GPU and float32 elsewhere."""
    import torch

    if dtype == "auto":
        dtype = "float16" if device.type == "cuda" else "float32"
    found: torch.dtype = getattr(torch, dtype)
    return found


def load_pipeline(model: str, dtype: torch.dtype, device: torch.device) -> Any:
    """The text-to-image pipeline of ``model`` on ``device``.

    Args:
        model: "embedded" or "embedded-sd3", a diffusers folder, or a model id that diffusers finds in its cache or
            fetches. A Stable Diffusion 3 may come without its T5.

    Raises:
        ValueError: It is none of these, or its weights are not safetensors.
    """
    if model in EMBEDDED_MODELS:
        from weft import shapes

        return shapes.pipeline(EMBEDDED_MODELS[model], dtype, device)
    from diffusers import AutoPipelineForText2Image

    return _open(AutoPipelineForText2Image, model, dtype, EMBEDDED_MODELS).to(device)


def load_inpainting(model: str, dtype: torch.dtype, device: torch.device) -> Any:
    """The inpainting pipeline of ``model`` on ``device``.

    Args:
        model: "embedded", a diffusers folder, or a model id that diffusers finds in its cache or fetches.

    Raises:
        ValueError: It is none of these, or its weights are not safetensors.
    """
    if model == EMBEDDED:
        from weft import shapes

        return shapes.pipeline("inpainting", dtype, device)
    if model in EMBEDDED_MODELS:
        raise ValueError(
            f"--model: {model} does not inpaint; give {EMBEDDED!r}, a folder that `weft train task-prompts` made, or "
            "a diffusers folder or model id of an inpainting model"
        )
    from diffusers import AutoPipelineForInpainting

    return _open(AutoPipelineForInpainting, model, dtype, (EMBEDDED,)).to(device)


def _open(kind: Any, model: str, dtype: torch.dtype, shipped: Iterable[str]) -> Any:
    """The pipeline of class ``kind`` that diffusers makes of a folder or a model id; ``shipped`` are named beside."""
    folder = Path(model).expanduser()
    looks_like_path = folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1
    if folder.exists() or looks_like_path:
        if not (folder / "model_index.json").is_file():
            found = (
                "has no model_index.json" if folder.is_dir() else "is a file" if folder.exists() else "is not there"
            )
            raise ValueError(
                f"--model: must be {' or '.join(map(repr, shipped))}, a diffusers folder or a model id such "
                f"as owner/name; {folder} {found}"
            )
        model = str(folder)
    try:
        index = kind.load_config(model)
        # a part that the model says it has not, such as a T5, is asked for unless it is refused by name
        absent = {name: None for name, part in index.items() if part == [None, None]}
        # safetensors only: a pickled checkpoint can run code when it is read
        return kind.from_pretrained(model, torch_dtype=dtype, use_safetensors=True, **absent)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(f"--model {model}: diffusers cannot load it: {first_line}") from error
