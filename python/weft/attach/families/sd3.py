"""The joint family (Stable Diffusion 3 and 3.5).

Relied on beyond the public interface: the blocks are named transformer_blocks, the joint attention of each ``attn``, a
second one of the image alone ``attn2``; and what ``joint_tokens`` says.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import FusedJointAttnProcessor2_0, JointAttnProcessor2_0
from torch import Tensor, nn

from weft.attach.families.family import Family, MakeStandIn, Widths
from weft.attach.processors.joint import WeftJointAttnProcessor
from weft.attach.processors.joint_tokens import carry_tokens
from weft.attach.records import LayerInfo, TextReader, TextStates

_NAME = re.compile(r"transformer_blocks\.\d+\.attn2?")


class SD3Family(Family):
    """Joint transformers whose image and text attend to each other in every block."""

    model = SD3Transformer2DModel
    about = "Stable Diffusion 3, 3.5, also image-to-image, inpainting and ControlNet"
    part = "transformer"
    latent = "hidden_states"
    perturbs = "skip_layers"
    stand_ins: ClassVar[Mapping[type, MakeStandIn]] = {
        JointAttnProcessor2_0: functools.partial(WeftJointAttnProcessor, False),
        FusedJointAttnProcessor2_0: functools.partial(WeftJointAttnProcessor, True),
    }
    readers = (
        TextReader("tokenizer", "text_encoder", "prompt"),
        TextReader("tokenizer_2", "text_encoder_2", "prompt_2"),
        TextReader("tokenizer_3", "text_encoder_3", "prompt_3", follows=True),
    )
    text_length = 256
    is_flow = True

    def refuse_layer(self, model: Any, name: str, attn: Any) -> str | None:
        if not _NAME.fullmatch(name):
            return "not an attention of the denoiser's blocks"
        patch = self.patch(model)
        if patch.bit_count() != 1:
            return f"patches of {patch} x {patch} cells halve the latent no whole times"
        return None

    def layer_info(self, model: Any, name: str, attn: Any) -> LayerInfo:
        is_joint = attn.added_kv_proj_dim is not None
        level = self.patch(model).bit_length() - 1
        return LayerInfo(name, is_joint, attn.heads, attn.inner_dim // attn.heads, level, is_joint)

    def widths(self, model: Any) -> Widths:
        return Widths(model.config.joint_attention_dim, model.config.caption_projection_dim)

    def hooks(self, model: Any) -> tuple[Any, ...]:
        return carry_tokens(model)

    def run(
        self, denoiser: Any, latents: Tensor, timestep: Tensor, text: TextStates, time_ids: Tensor | None = None
    ) -> Tensor:
        assert text.pooled is not None
        count = len(latents)
        times = count // len(text.states)
        predicted: Tensor = denoiser(
            latents,
            encoder_hidden_states=text.states.repeat_interleave(times, 0),
            pooled_projections=text.pooled.repeat_interleave(times, 0),
            timestep=timestep.expand(count),
        ).sample
        return predicted

    def feature_layer(self, model: Any) -> nn.Module:
        blocks = model.transformer_blocks
        layer: nn.Module = blocks[len(blocks) // 2]
        return layer

    def feature_map(self, output: Any) -> Tensor:
        states: Tensor = output[-1].mT  # of (text, pixels)
        return states

    def text_blocks(self, model: Any) -> tuple[str, ...]:
        return tuple(f"transformer_blocks.{number}" for number in range(len(model.transformer_blocks)))

    def patch(self, model: Any) -> int:
        return int(model.config.patch_size)

    def encode_arguments(self, text_length: int | None) -> dict[str, Any]:
        return {"prompt_2": None, "prompt_3": None, "max_sequence_length": text_length or self.text_length}


SD3 = SD3Family()
