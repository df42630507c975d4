"""The UNet family (Stable Diffusion 1.x, 2.x, XL, refiner).

Relied on beyond the public interface: the UNet names its parts down_blocks, mid_block and up_blocks.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0, FusedAttnProcessor2_0
from torch import Tensor, nn

from weft.attach.families.family import Family, Widths
from weft.attach.families.unet_blocks import find_projections, is_in_a_block, layers_before_text, level_of
from weft.attach.processors.cross import CrossRule, CrossSeam
from weft.attach.processors.seam import Seam, bound
from weft.attach.processors.text_cache import TextCache
from weft.attach.records import PIXELS_PER_CELL, LayerInfo, ProjectionInfo, TextReader, TextStates

# the processors that are replaced; matched exactly, since a subclass has its reasons
RULES: dict[type, CrossRule] = {
    AttnProcessor2_0: CrossRule(),
    FusedAttnProcessor2_0: CrossRule(fused=True),
    AttnProcessor: CrossRule(uses_layer_scale=True, keeps_text=False),
}
# it forms the probabilities itself; where a control acts, the code of the other does the same with one call
CODE: dict[type, type] = {AttnProcessor: AttnProcessor2_0}


class UNetFamily(Family):
    """Denoisers whose blocks halve and double the latent, with cross-attention to the text."""

    model_names = ("UNet2DConditionModel",)
    about = "Stable Diffusion 1.x, 2.x, XL, also image-to-image, inpainting and ControlNet"
    part = "unet"
    latent = "sample"
    # a refiner of XL has the second alone
    readers = (
        TextReader("tokenizer", "text_encoder", "prompt"),
        TextReader("tokenizer_2", "text_encoder_2", "prompt_2"),
    )

    def refuse_layer(self, model: Any, name: str, attn: Any) -> str | None:
        if not is_in_a_block(name):
            return "not an attention of the denoiser's blocks"
        if ".fuser." in name:
            return "attends over grounding boxes as well as pixels (GLIGEN)"
        if type(attn) is not Attention:
            return f"its module is {type(attn).__name__}, not diffusers' Attention"
        if attn.inner_kv_dim != attn.inner_dim:
            return "groups several heads on one key"
        return None

    def layer_info(self, model: Any, name: str, attn: Any) -> LayerInfo:
        level = level_of(model, name)
        return LayerInfo(name, attn.is_cross_attention, attn.heads, attn.inner_dim // attn.heads, level)

    def refuse_processor(self, attn: Any, processor: type) -> str | None:
        if processor in RULES:
            return None
        known = ", ".join(rule.__name__ for rule in RULES)
        return f"keeps its own processor {processor.__name__}; taken over are {known}"

    def stand_in(self, processor: Any, layer: LayerInfo, cache: TextCache, backend: str | None) -> Seam:
        host: Any = type(processor)
        made: Any = bound(CrossSeam, host, CODE.get(host))
        seam: Seam = made(processor, layer, backend, cache=cache, rule=RULES[host])
        return seam

    def widths(self, model: Any) -> Widths:
        width = model.config.cross_attention_dim
        return Widths(width if isinstance(width, int) else max(width))

    def projections(self, model: Any) -> tuple[ProjectionInfo, ...]:
        return find_projections(model)

    def run(
        self, denoiser: Any, latents: Tensor, timestep: Tensor, text: TextStates, time_ids: Tensor | None = None
    ) -> Tensor:
        count, added = len(latents), {}
        if text.pooled is not None:
            pooled = text.pooled.repeat_interleave(count // len(text.states), 0)
            ids = _plain_time_ids(latents) if time_ids is None else time_ids
            added["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids.to(pooled.dtype)}
        # stand-ins take a text for several rows of pixels
        predicted: Tensor = denoiser(latents, timestep.expand(count), text.states, **added).sample
        return predicted

    def feature_layer(self, model: Any) -> nn.Module:
        layer: nn.Module = model.up_blocks[0]
        return layer

    def feature_map(self, output: Any) -> Tensor:
        states: Tensor = output.flatten(2)
        return states

    def layers_before_text(self, model: Any) -> list[nn.Module]:
        return layers_before_text(model)

    def is_large(self, model: Any) -> bool:
        return bool(model.config.addition_embed_type == "text_time")


def _plain_time_ids(latents: Tensor) -> Tensor:
    """What XL is given for pictures that it makes: as large as ``latents`` [P, C, h, w], nothing cut off; [P, 6]."""
    height, width = (PIXELS_PER_CELL * cells for cells in latents.shape[-2:])
    return torch.tensor([height, width, 0, 0, height, width], device=latents.device).expand(len(latents), -1).float()


UNET = UNetFamily()
