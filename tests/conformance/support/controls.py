"""The controls that are tried on every family: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import concepts
import inpainting
import task_branches
import tiny_pipelines as tiny
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline

import weft
from weft.attach import base_model


@dataclass(frozen=True)
class Case:
    """A control, and what it promises.

    Attributes:
        make: The control for a pipeline.
        acts: It changes the picture; one that does not, reads.
        refused: Family -> a part of the message with which attaching is refused there.
        build: Family -> the pipeline that it is for, where that is not the family's own from text to image.
        call: What the call of the pipeline takes then; asked while the control is attached.
        whole_batch: It acts on every row, whatever text the row carries.
        reload: The control again, after its artefact was saved to a folder and loaded; None where it has no file.
    """

    make: Callable[[Any], Any]
    acts: bool = True
    refused: Mapping[str, str] = field(default_factory=dict)
    build: Mapping[str, Callable[[Path], Any]] = field(default_factory=dict)
    call: Callable[[Any], dict[str, Any]] | None = None
    whole_batch: bool = False
    reload: Callable[[Any, Path], Any] | None = None


def _filling(folder: Path, unet: Any = None) -> Any:
    """A pipeline that fills holes, whose tokenizer's letters fit."""
    pipe = tiny.sd1(folder, StableDiffusionInpaintPipeline, unet=unet)
    pipe.text_encoder = task_branches.long_text_encoder(len(pipe.tokenizer))
    pipe.tokenizer.model_max_length = task_branches.LONG
    return pipe


def _filling_xl(folder: Path) -> Any:
    pipe = tiny.sdxl(folder, StableDiffusionXLInpaintPipeline)
    pipe.register_modules(unet=tiny.unet(tiny.SDXL, in_channels=9))
    return pipe


def _removal(control: Any) -> dict[str, Any]:
    picture, (mask,) = inpainting.picture(size=(tiny.SIDE, tiny.SIDE)), task_branches.masks(task_branches.BOX)
    plain = {"prompt": None, "negative_prompt": None, "output_type": "np"}
    return {**plain, "image": picture, "mask_image": mask, **control.removal(quality_words="")}


def _soft_tokens(pipe: Any) -> weft.SoftTokens:
    base, generator = base_model(pipe), torch.Generator().manual_seed(2)
    if base.block_width is None:
        return weft.SoftTokens(torch.randn(3, base.text_width, generator=generator), blocks=("up_blocks",))
    tokens = torch.randn(3, base.block_width, generator=generator)
    return weft.SoftTokens(tokens, blocks=("transformer_blocks.0",), space="block")


def _task_prompts(pipe: Any) -> weft.TaskPrompts:
    generator = torch.Generator().manual_seed(3)
    names: tuple[Any, ...] = ("context", "shape", "object")
    encoders = 1 if getattr(pipe, "text_encoder_2", None) is None else 2
    return weft.TaskPrompts(
        {name: tuple(0.1 * torch.randn(2, 32, generator=generator) for _ in range(encoders)) for name in names}
    )


def _reload(kind: Any) -> Callable[[Any, Path], Any]:
    def reload(control: Any, folder: Path) -> Any:
        path = folder / "artefact.safetensors"
        control.save(path)
        return kind.load(path)

    return reload


def _reload_residuals(control: Any, folder: Path) -> Any:
    paths = []
    for number, residual in enumerate(control.residuals):
        paths.append(folder / f"residual{number}.safetensors")
        residual.save(paths[-1])
    return weft.LocalizedResiduals([weft.Residual.load(path) for path in paths])


CONTROLS = {
    "AttentionMaps": Case(lambda pipe: weft.AttentionMaps(["circle", "square"]), acts=False),
    "MaskDiffusion": Case(
        lambda pipe: weft.MaskDiffusion(mode="clean"),
        refused=dict.fromkeys(("sd3", "flux"), "finds regions in the attention of UNets"),
    ),
    "MaskDiffusion by boxes": Case(
        lambda pipe: weft.MaskDiffusion(boxes={"a red circle": (0, 0, 16, 32), "a blue square": (16, 0, 32, 16)})
    ),
    "LocalizedResiduals": Case(
        lambda pipe: weft.LocalizedResiduals([concepts.residual_for(pipe, words) for words in concepts.POSITIONS]),
        refused={"sd3": "do not end in a projection", "flux": "does not fit"},
        reload=_reload_residuals,
    ),
    "LocalizedResiduals by boxes": Case(
        lambda pipe: weft.LocalizedResiduals(
            [concepts.residual_for(pipe, words) for words in concepts.POSITIONS], [(0, 0, 16, 32), (16, 0, 32, 16)]
        ),
        refused={"sd3": "do not end in a projection"},
    ),
    "SoftTokens": Case(
        _soft_tokens,
        refused={"flux": "serves no attention to the text in up_blocks"},
        whole_batch=True,
        reload=_reload(weft.SoftTokens),
    ),
    "TaskPrompts": Case(
        _task_prompts,
        refused=dict.fromkeys(("sd3", "flux"), "needs an inpainting pipeline"),
        build={"unet": lambda folder: _filling(folder, tiny.unet(in_channels=9)), "sdxl": _filling_xl},
        call=_removal,
        whole_batch=True,
        reload=_reload(weft.TaskPrompts),
    ),
    "TaskBranch": Case(
        lambda pipe: task_branches.task_branch(pipe, strength=0.3),
        refused=dict.fromkeys(("sdxl", "sd3", "flux"), "needs an inpainting pipeline"),
        build={"unet": _filling},
        call=_removal,
        whole_batch=True,
        reload=_reload(weft.TaskBranch),
    ),
}
