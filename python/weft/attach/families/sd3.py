"""The joint family (Stable Diffusion 3 and 3.5): what is taken over, as data.

Relied on beyond the public interface: the blocks are named transformer_blocks, the joint attention of each ``attn``, a
second one of the image alone ``attn2``; and what ``joint_tokens`` says.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import FusedJointAttnProcessor2_0, JointAttnProcessor2_0

from weft.attach.families.family import Family, Widths
from weft.attach.processors.joint import WeftJointAttnProcessor
from weft.attach.processors.joint_tokens import carry_tokens
from weft.attach.records import LayerInfo

_NAME = re.compile(r"transformer_blocks\.\d+\.attn2?")


def _refuse_layer(model: Any, name: str, attn: Any) -> str | None:
    if not _NAME.fullmatch(name):
        return "not an attention of the denoiser's blocks"
    if model.config.patch_size.bit_count() != 1:
        return (
            f"patches of {model.config.patch_size} x {model.config.patch_size} cells halve the latent no whole times"
        )
    return None


def _layer_info(model: Any, name: str, attn: Any) -> LayerInfo:
    is_joint = attn.added_kv_proj_dim is not None
    level = model.config.patch_size.bit_length() - 1
    return LayerInfo(name, is_joint, attn.heads, attn.inner_dim // attn.heads, level, is_joint)


def _widths(model: Any) -> Widths:
    return Widths(model.config.joint_attention_dim, model.config.caption_projection_dim)


SD3 = Family(
    model=SD3Transformer2DModel,
    about="Stable Diffusion 3, 3.5, also image-to-image, inpainting and ControlNet",
    part="transformer",
    latent="hidden_states",
    perturbs="skip_layers",
    stand_ins={
        JointAttnProcessor2_0: functools.partial(WeftJointAttnProcessor, False),
        FusedJointAttnProcessor2_0: functools.partial(WeftJointAttnProcessor, True),
    },
    refuse_layer=_refuse_layer,
    layer_info=_layer_info,
    widths=_widths,
    hooks=carry_tokens,
)
