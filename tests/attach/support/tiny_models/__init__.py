"""Stock diffusers pipelines with tiny random weights, offline, each with the tokenizers of its class.

``TINY`` has a record for each: ``TINY["flux"].build()`` is a pipeline, ``TINY["flux"].generate(pipe)`` an image of it.
"""

from __future__ import annotations

from . import bria, chroma, deepfloyd, flux, flux2, instruct_pix2pix, kandinsky, kolors, longcat, ovis
from .located import encoded, positions
from .model import HEIGHT, NEGATIVE, PROMPT, STEPS, WIDTH, Text, TinyModel, mask, picture

TINY: dict[str, TinyModel] = {
    **flux.MODELS,
    **chroma.MODELS,
    **flux2.MODELS,
    **bria.MODELS,
    **ovis.MODELS,
    **longcat.MODELS,
    **instruct_pix2pix.MODELS,
    **kolors.MODELS,
    **kandinsky.MODELS,
    **deepfloyd.MODELS,
}

__all__ = [
    "HEIGHT",
    "NEGATIVE",
    "PROMPT",
    "STEPS",
    "TINY",
    "WIDTH",
    "Text",
    "TinyModel",
    "encoded",
    "mask",
    "picture",
    "positions",
]
