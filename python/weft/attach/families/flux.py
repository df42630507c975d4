"""Flux and the transformers built like it: text before image, packed latents, positions for every token."""

from __future__ import annotations

import functools
from typing import Any

from weft.attach.families.joint import Joint
from weft.attach.records import TextReader

# what all of them share: the text first, four cells of the latent in a token, and timesteps from 1 to 0
_LIKE_FLUX = functools.partial(
    Joint,
    position_ids="img_ids",
    patch_size=2,
    attentions=r"(single_)?transformer_blocks\.\d+\.attn",
    noisiest=1.0,
)


def _template_before(pipeline: Any, tokenizer: Any) -> int:
    """Tokens that LongCat's pipeline puts before a prompt and leaves out of the conditioning."""
    return len(tokenizer(pipeline.prompt_template_encode_prefix, add_special_tokens=False).input_ids)


def _instruction(pipeline: Any, tokenizer: Any) -> int:
    """Tokens of the instruction before a prompt, as Ovis' pipeline counts them."""
    return int(pipeline.user_prompt_begin_id)


FLUX = _LIKE_FLUX(
    classes=("FluxTransformer2DModel",),
    about="Flux, also Kontext, Fill, Control and ControlNet",
    readers=(TextReader("tokenizer_2", "text_encoder_2", "prompt_2", length="max_sequence_length"),),
)
CHROMA = _LIKE_FLUX(
    classes=("ChromaTransformer2DModel",),
    about="Chroma",
    adds_mask=True,
    readers=(TextReader("tokenizer", "text_encoder", "prompt", length="max_sequence_length"),),
)
FLUX2 = _LIKE_FLUX(
    classes=("Flux2Transformer2DModel",),
    about="Flux.2 dev and Klein",
    readers=(TextReader("tokenizer", "text_encoder", "prompt", length="max_sequence_length"),),
)
BRIA = _LIKE_FLUX(
    classes=("BriaTransformer2DModel",),
    about="Bria 3.2",
    noisiest=1000.0,
    cells_in_scale=2,
    readers=(TextReader("tokenizer", "text_encoder", "prompt", length="max_sequence_length"),),
)
OVIS = _LIKE_FLUX(
    classes=("OvisImageTransformer2DModel",),
    about="Ovis-Image",
    readers=(TextReader("tokenizer", "text_encoder", "prompt", dropped=_instruction),),
)
LONGCAT = _LIKE_FLUX(
    classes=("LongCatImageTransformer2DModel",),
    about="LongCat-Image",
    readers=(TextReader("tokenizer", "text_encoder", "prompt", dropped=_template_before),),
)

FAMILIES = (FLUX, CHROMA, FLUX2, BRIA, OVIS, LONGCAT)
