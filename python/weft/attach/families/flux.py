"""Flux and the transformers built like it: text before image, packed latents, positions for every token."""

from __future__ import annotations

from weft.attach.families.joint import Joint
from weft.attach.records import TextReader

# what all of them share: the text first, and four cells of the latent in a token
_FLUX = {"position_ids": "img_ids", "patch_size": 2, "attentions": r"(single_)?transformer_blocks\.\d+\.attn"}

FLUX = Joint(
    classes=("FluxTransformer2DModel",),
    about="Flux, also Kontext, Fill, Control and ControlNet",
    readers=(TextReader("tokenizer_2", "text_encoder_2", "prompt_2", length="max_sequence_length"),),
    **_FLUX,
)
CHROMA = Joint(
    classes=("ChromaTransformer2DModel",),
    about="Chroma",
    readers=(TextReader("tokenizer", "text_encoder", "prompt", length="max_sequence_length"),),
    **_FLUX,
)
FLUX2 = Joint(
    classes=("Flux2Transformer2DModel",),
    about="Flux.2 dev and Klein",
    readers=(TextReader("tokenizer", "text_encoder", "prompt", length="max_sequence_length"),),
    **_FLUX,
)
BRIA = Joint(
    classes=("BriaTransformer2DModel",),
    about="Bria 3.2",
    readers=(TextReader("tokenizer", "text_encoder", "prompt", length="max_sequence_length"),),
    **_FLUX,
)
OVIS = Joint(
    classes=("OvisImageTransformer2DModel",),
    about="Ovis-Image",
    readers=(TextReader("tokenizer", "text_encoder", "prompt", length="max_sequence_length"),),
    **_FLUX,
)
LONGCAT = Joint(
    classes=("LongCatImageTransformer2DModel",),
    about="LongCat-Image",
    readers=(TextReader("tokenizer", "text_encoder", "prompt"),),
    **_FLUX,
)

FAMILIES = (FLUX, CHROMA, FLUX2, BRIA, OVIS, LONGCAT)
