"""The families of models that weft knows, and from what a user hands in to its denoiser and the family of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
from diffusers import DiffusionPipeline
from torch import nn

from weft.attach.families import flux
from weft.attach.families.family import Family
from weft.attach.families.host import Host
from weft.attach.families.sd3 import SD3
from weft.attach.families.unet import UNET
from weft.attach.families.unknown import describe_attentions
from weft.attach.records import BaseModel

# ModularPipeline is no subclass of DiffusionPipeline, and older versions of diffusers lack it
PIPELINES: tuple[type, ...] = (DiffusionPipeline, *filter(None, [getattr(diffusers, "ModularPipeline", None)]))
FAMILIES: tuple[Family, ...] = (UNET, SD3, *flux.FAMILIES)


def family_of(model: Any) -> Family | None:
    """The family that a denoiser is of; None for none."""
    return next((family for family in FAMILIES if family.is_of(model)), None)


def known_families() -> str:
    """What there is, for a message."""
    return "; ".join(f"{', '.join(family.model_names)} ({family.about})" for family in FAMILIES)


def resolve(pipe_or_model: Any, family: Family | None = None) -> Host:
    """The denoiser of a pipeline and its family; what is resolved already comes back as it is.

    Args:
        family: Of a model of the user's own; None to look it up.

    Raises:
        TypeError: Neither a pipeline nor a model, or ``family`` is none.
        ValueError: The denoiser is of a family that weft does not know.
    """
    if family is not None and not isinstance(family, Family):
        raise TypeError(
            f"attach: `family` must be a weft.attach.Joint that describes the model; got {type(family).__name__}"
        )
    if isinstance(pipe_or_model, Host):
        return pipe_or_model
    if isinstance(pipe_or_model, PIPELINES):
        pipeline: Any = pipe_or_model
        parts = [family.part] if family is not None else [known.part for known in FAMILIES]
        models = (getattr(pipeline, part, None) for part in parts)
        model = next((model for model in models if model is not None), None)
        if model is None:
            found = ", ".join(sorted(name for name, part in pipeline.components.items() if part is not None))
            raise ValueError(
                f"attach: needs a pipeline with one of {known_families()}; {type(pipeline).__name__} has {found}"
            )
    elif isinstance(pipe_or_model, nn.Module):
        pipeline, model = None, pipe_or_model
    else:
        raise TypeError(
            "attach: needs a diffusers pipeline or its denoiser; got "
            f"{type(pipe_or_model).__name__}{_hint(pipe_or_model)}"
        )
    model = getattr(model, "_orig_mod", model)  # torch.compile keeps the module there
    known = family or family_of(model)
    if known is None:
        raise ValueError(
            f"attach: supports {known_families()}; got {type(model).__name__}, {describe_attentions(model)}"
        )
    return Host(pipeline, model, known)


def base_model(pipe_or_model: Any, name: str | None = None) -> BaseModel:
    """Describe the denoiser of ``pipe_or_model``.

    Args:
        pipe_or_model: A pipeline, its denoiser, or what ``resolve`` gave.
        name: Of its weights; None for what diffusers remembers of where they came from.

    Raises:
        TypeError, ValueError: As ``weft.attach``; or a UNet has no ``proj_out``.
    """
    host = resolve(pipe_or_model)
    if name is None:
        name = str(getattr(host.pipeline or host.model, "name_or_path", "") or "unnamed")
        if Path(name).exists():
            name = "/".join(Path(name).resolve().parts[-2:])  # the full path of a folder is private
    widths = host.family.widths(host.model)
    return BaseModel(name, widths.text, host.family.projections(host.model), widths.block)


def _hint(value: Any) -> str:
    if isinstance(value, str):
        return f" {value!r}; load it first: StableDiffusionPipeline.from_pretrained({value!r})"
    if isinstance(value, type):
        return f" {value.__name__}; hand in an instance"
    return ""
