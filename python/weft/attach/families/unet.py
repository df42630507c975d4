"""The UNet family (Stable Diffusion 1.x, 2.x, XL, refiner): what is taken over, as data.

Relied on beyond the public interface: the UNet names its parts down_blocks, mid_block and up_blocks.
"""

from __future__ import annotations

import functools
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, FusedAttnProcessor2_0
from torch import nn

from weft.attach.families.family import Family, Widths
from weft.attach.families.unet_blocks import find_projections, is_in_a_block, level_of
from weft.attach.processors.separate import ProcessorRule, WeftAttnProcessor
from weft.attach.records import LayerInfo

RULES = {
    AttnProcessor2_0: ProcessorRule(),
    FusedAttnProcessor2_0: ProcessorRule(fused=True),
    AttnProcessor: ProcessorRule(uses_layer_scale=True, keeps_text=False),
}


def _refuse_layer(model: nn.Module, name: str, attn: Any) -> str | None:
    if not is_in_a_block(name):
        return "not an attention of the denoiser's blocks"
    if ".fuser." in name:
        return "attends over grounding boxes as well as pixels (GLIGEN)"
    if attn.inner_kv_dim != attn.inner_dim:
        return "groups several heads on one key"
    return None


def _layer_info(model: nn.Module, name: str, attn: Any) -> LayerInfo:
    level = level_of(model, name)
    return LayerInfo(name, attn.is_cross_attention, attn.heads, attn.inner_dim // attn.heads, level)


def _widths(model: Any) -> Widths:
    width = model.config.cross_attention_dim
    return Widths(width if isinstance(width, int) else max(width))


UNET = Family(
    model=UNet2DConditionModel,
    about="Stable Diffusion 1.x, 2.x, XL, also image-to-image, inpainting and ControlNet",
    part="unet",
    latent="sample",
    stand_ins={host: functools.partial(WeftAttnProcessor, rule) for host, rule in RULES.items()},
    refuse_layer=_refuse_layer,
    layer_info=_layer_info,
    widths=_widths,
    projections=find_projections,
)
