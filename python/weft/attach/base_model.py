"""What a model is, as far as something trained on it must know: so that it is refused by a model it does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.attach.families.source import denoiser_of
from weft.attach.projections import ProjectionInfo


@dataclass(frozen=True)
class BaseModel:
    """The architecture of a denoiser, and the name of its weights.

    Attributes:
        name: Model id, or the end of a folder's path; for people, never compared: what was trained on a model works
            on every finetune of it.
        text_width: Channels of the conditioning (768 for SD1.x, 1024 for SD2, 2048 for SDXL, 4096 for SD3).
        projections: Its ``proj_out`` layers; none outside the UNets.
        block_width: Channels of the text within the blocks, where the model keeps a stream of it there (1536 for
            Stable Diffusion 3); None where blocks see the conditioning itself.
    """

    name: str
    text_width: int
    projections: tuple[ProjectionInfo, ...]
    block_width: int | None = None

    def mismatch(self, layers: Mapping[str, int], text_width: int, is_convolution: bool) -> str | None:
        """Why factors for ``layers`` (name -> width) do not fit this model; None when they do."""
        mine = {info.name: info for info in self.projections}
        if not mine:
            return "its blocks do not end in a projection, as those of a UNet do"
        if text_width != self.text_width:
            return f"it was trained with text of width {text_width}; this model's is {self.text_width}"
        for name, width in layers.items():
            if name not in mine:
                return f"it has factors for {name}, which this model has not"
            if width != mine[name].width:
                return f"{name} has width {width} there and {mine[name].width} here"
            if is_convolution != mine[name].is_convolution:
                forms = ("a linear layer", "a 1x1 convolution")
                return f"{name} is {forms[is_convolution]} there and {forms[not is_convolution]} here"
        return None


def base_model(pipe_or_model: Any, name: str | None = None) -> BaseModel:
    """Describe the denoiser of ``pipe_or_model``.

    Args:
        name: Of its weights; None for what diffusers remembers of where they came from.

    Raises:
        TypeError, ValueError: As ``weft.attach``; or a UNet has no ``proj_out``.
    """
    pipeline, model, family = denoiser_of(pipe_or_model)
    if name is None:
        name = str(getattr(pipeline or model, "name_or_path", "") or "unnamed")
        if Path(name).exists():
            name = "/".join(Path(name).resolve().parts[-2:])  # where a folder lies is nobody's business
    widths = family.widths(model)
    return BaseModel(name, widths.text, family.projections(model), widths.block)
