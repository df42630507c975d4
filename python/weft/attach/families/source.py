"""From what a user hands in to the denoiser inside it, or one clear error."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from weft.attach.families.family import Family
from weft.attach.families.registry import FAMILIES, family_of, known_families


def denoiser_of(pipe_or_model: Any) -> tuple[Any, Any, Family]:
    """(pipeline or None, denoiser, its family), the denoiser without the wrapper of ``torch.compile``.

    Raises:
        TypeError: Neither a pipeline nor a model.
        ValueError: The denoiser is of a family that weft does not know.
    """
    if isinstance(pipe_or_model, DiffusionPipeline):
        pipeline = pipe_or_model
        models = (getattr(pipeline, family.part, None) for family in FAMILIES)
        model = next((model for model in models if model is not None), None)
        if model is None:
            parts = ", ".join(sorted(name for name, part in pipeline.components.items() if part is not None))
            raise ValueError(
                f"attach: needs a pipeline with a {known_families()}; {type(pipeline).__name__} has {parts}"
            )
    elif isinstance(pipe_or_model, nn.Module):
        pipeline, model = None, pipe_or_model
    else:
        raise TypeError(
            "attach: needs a diffusers pipeline or its denoiser; got "
            f"{type(pipe_or_model).__name__}{_hint(pipe_or_model)}"
        )
    model = getattr(model, "_orig_mod", model)  # torch.compile keeps the module there
    family = family_of(model)
    if family is None:
        raise ValueError(f"attach: supports {known_families()}; got {type(model).__name__}")
    return pipeline, model, family


def _hint(value: Any) -> str:
    if isinstance(value, str):
        return f" {value!r}; load it first: StableDiffusionPipeline.from_pretrained({value!r})"
    if isinstance(value, type):
        return f" {value.__name__}; hand in an instance"
    return ""
