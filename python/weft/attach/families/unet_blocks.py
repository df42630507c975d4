"""The blocks of a UNet: how often they halve the latent, where they end in a projection, where something may be added.

A ControlNet reaches the skips and the middle alone. A branch as of BrushNet adds to what the blocks go on with, too:
after the first convolution, after every residual block (with its attention), every change of resolution, the middle.

Relied on beyond the public interface: the UNet names its parts down_blocks, mid_block and up_blocks, and blocks name
resnets, attentions, downsamplers and upsamplers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from diffusers import Transformer2DModel
from torch import nn

from weft.attach.families.family import bare_layer
from weft.attach.records import ProjectionInfo

INPUT, MIDDLE = "conv_in", "mid_block"
_BLOCK = re.compile(r"(?:.*\.)?(?P<part>down_blocks|mid_block|up_blocks)(\.(?P<number>\d+))?\.")
# of a block; the bare name of its `proj_out` is also that of the last layer of other families
_ATTENTIONS = re.compile(r".*\.attentions\.\d+")


def is_in_a_block(name: str) -> bool:
    """Whether the module of this path belongs to the blocks of a UNet."""
    return _BLOCK.match(name) is not None


def level_of(model: Any, name: str) -> int:
    """How often the latent was halved before the module ``name``; 0 is the latent's own resolution."""
    block = _BLOCK.match(name)
    assert block is not None
    deepest = len(model.down_blocks) - 1  # the last down block halves nothing, so the middle is as deep
    number = int(block["number"] or 0)
    return {"down_blocks": number, "mid_block": deepest, "up_blocks": deepest - number}[block["part"]]


def find_projections(model: nn.Module) -> tuple[ProjectionInfo, ...]:
    """Every ``proj_out`` of the transformer blocks of ``model``, in the order of its modules.

    Raises:
        ValueError: There is none.
    """
    found = tuple(
        _projection_info(model, f"{name}.proj_out")
        for name, block in model.named_modules()
        if isinstance(block, Transformer2DModel) and is_in_a_block(name) and _ATTENTIONS.fullmatch(name)
        if isinstance(getattr(block, "proj_out", None), nn.Module)
    )
    if not found:
        raise ValueError(
            f"projections: needs a model with transformer blocks named `attentions.<n>`, such as the UNet of Stable "
            f"Diffusion 1.x, 2.x or XL; {type(model).__name__} has none"
        )
    return found


def _projection_info(model: nn.Module, name: str) -> ProjectionInfo:
    module = bare_layer(model, name)
    is_convolution = isinstance(module, nn.Conv2d)
    width = module.in_channels if is_convolution else module.in_features
    if is_convolution and (module.kernel_size, module.stride, module.groups) != ((1, 1), (1, 1), 1):
        raise ValueError(f"projections: {name} must be a linear layer or a plain 1x1 convolution; got {module}")
    return ProjectionInfo(name, width, width, is_convolution, level_of(model, name))


def places(model: Any) -> tuple[str, ...]:
    """Paths of the modules behind which something may be added, in the order in which they run.

    Raises:
        ValueError: The model is no UNet of Stable Diffusion.
    """
    if any(getattr(model, part, None) is None for part in (INPUT, "down_blocks", MIDDLE, "up_blocks")):
        raise ValueError(
            f"attach: something can be added within a UNet of Stable Diffusion alone; {type(model).__name__} lacks "
            "its blocks"
        )
    return (
        INPUT,
        *_of_blocks("down_blocks", model.down_blocks, "downsamplers"),
        MIDDLE,
        *_of_blocks("up_blocks", model.up_blocks, "upsamplers"),
    )


def place_widths(model: Any) -> dict[str, int]:
    """Place -> channels there."""
    middle = model.config.block_out_channels[-1]
    return {name: middle if name == MIDDLE else model.get_submodule(name).out_channels for name in places(model)}


def _of_blocks(path: str, blocks: Any, samplers: str) -> Iterator[str]:
    for number, block in enumerate(blocks):
        layers = "attentions" if getattr(block, "attentions", None) else "resnets"
        for part in (layers, samplers):
            yield from (f"{path}.{number}.{part}.{index}" for index in range(len(getattr(block, part, None) or ())))


def layers_before_text(unet: Any) -> list[nn.Module]:
    """The costly layers before the first text: of Stable Diffusion XL, whose embedding of time has text in it, one."""
    found = [unet.conv_in]
    if unet.config.addition_embed_type is not None or unet.config.class_embed_type is not None:
        return found
    for block in unet.down_blocks:
        found.append(block.resnets[0])
        if getattr(block, "attentions", None):
            first = block.attentions[0].transformer_blocks[0]
            return found if first.only_cross_attention else [*found, first.attn1]
        found += [*block.resnets[1:], *(block.downsamplers or ())]
    return found
