"""Flux and the transformers built like it: text before image, packed latents, positions for every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.attach.families.joint import Joint
from weft.attach.records import TextReader, TextStates


@dataclass(frozen=True)
class LikeFlux(Joint):
    """What all of them share: the text first, four cells of the latent in a token, and timesteps from 1 to 0."""

    position_ids: str | None = "img_ids"
    patch_size: int = 2
    attentions: str = r"(single_)?transformer_blocks\.\d+\.attn"
    noisiest: float = 1.0


# guidance is an input of Flux dev. Training compares with the plain velocity, which has none in it
_NO_GUIDANCE = 1.0


class FluxFamily(LikeFlux):
    """Flux, which residuals are trained on: CLIP's pooled text moves the modulation, T5's tokens are the text."""

    is_trained = True
    text_length = 512

    def run(
        self, denoiser: Any, latents: Tensor, timestep: Tensor, text: TextStates, time_ids: Tensor | None = None
    ) -> Tensor:
        assert text.pooled is not None
        count, patch = len(latents), self.patch(denoiser)
        times = count // len(text.states)
        tokens = F.pixel_unshuffle(latents, patch)  # [P, 4 C, h / 2, w / 2], channels in Flux's order
        h, w = tokens.shape[2:]
        guidance = latents.new_full((count,), _NO_GUIDANCE) if denoiser.config.guidance_embeds else None
        predicted: Tensor = denoiser(
            tokens.flatten(2).mT,
            encoder_hidden_states=text.states.repeat_interleave(times, 0),
            pooled_projections=text.pooled.repeat_interleave(times, 0).to(latents.dtype),
            timestep=timestep.expand(count).to(latents.dtype) / 1000,
            img_ids=_positions(h, w, latents),
            txt_ids=latents.new_zeros(text.states.shape[1], 3),
            guidance=guidance,
        ).sample
        return F.pixel_shuffle(predicted.mT.reshape(count, -1, h, w), patch)

    def latent_channels(self, model: Any) -> int:
        return super().latent_channels(model) // self.patch(model) ** 2

    def native_cells(self, model: Any) -> int:
        return 128  # 1024 pixels; its configuration does not say

    def encode_captions(self, pipeline: Any, captions: Sequence[str], text_length: int | None = None) -> TextStates:
        states, pooled, _ = pipeline.encode_prompt(
            prompt=list(captions),
            prompt_2=None,
            device=pipeline.device,
            num_images_per_prompt=1,
            max_sequence_length=text_length or self.text_length,
        )
        return TextStates(states, pooled)


def _positions(h: int, w: int, like: Tensor) -> Tensor:
    """(picture, row, column) of every token of a picture, [h * w, 3]."""
    rows, columns = (torch.arange(side, device=like.device, dtype=like.dtype) for side in (h, w))
    return torch.cartesian_prod(like.new_zeros(1), rows, columns)


def _template_before(pipeline: Any, tokenizer: Any) -> int:
    """Tokens that LongCat's pipeline puts before a prompt and leaves out of the conditioning."""
    return len(tokenizer(pipeline.prompt_template_encode_prefix, add_special_tokens=False).input_ids)


def _instruction(pipeline: Any, tokenizer: Any) -> int:
    """Tokens of the instruction before a prompt, as Ovis' pipeline counts them."""
    return int(pipeline.user_prompt_begin_id)


FLUX = FluxFamily(
    classes=("FluxTransformer2DModel",),
    about="Flux, also Kontext, Fill, Control and ControlNet",
    image_projections=r"transformer_blocks\.\d+\.attn\.to_out\.0",
    joint_projections=r"single_transformer_blocks\.\d+\.proj_out",  # of the attention and the feed-forward at once
    readers=(TextReader("tokenizer_2", "text_encoder_2", "prompt_2", length="max_sequence_length"),),
)
CHROMA = LikeFlux(
    classes=("ChromaTransformer2DModel",),
    about="Chroma",
    adds_mask=True,
    readers=(TextReader("tokenizer", "text_encoder", "prompt", length="max_sequence_length"),),
)
FLUX2 = LikeFlux(
    classes=("Flux2Transformer2DModel",),
    about="Flux.2 dev and Klein",
    readers=(TextReader("tokenizer", "text_encoder", "prompt", length="max_sequence_length"),),
)
BRIA = LikeFlux(
    classes=("BriaTransformer2DModel",),
    about="Bria 3.2",
    noisiest=1000.0,
    cells_in_scale=2,
    readers=(TextReader("tokenizer", "text_encoder", "prompt", length="max_sequence_length"),),
)
OVIS = LikeFlux(
    classes=("OvisImageTransformer2DModel",),
    about="Ovis-Image",
    readers=(TextReader("tokenizer", "text_encoder", "prompt", dropped=_instruction),),
)
LONGCAT = LikeFlux(
    classes=("LongCatImageTransformer2DModel",),
    about="LongCat-Image",
    readers=(TextReader("tokenizer", "text_encoder", "prompt", dropped=_template_before),),
)

FAMILIES = (FLUX, CHROMA, FLUX2, BRIA, OVIS, LONGCAT)
