"""A pipeline, its denoiser and the family of that: resolved once, and handed down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from weft.attach.families.family import Family
from weft.attach.records import PIXELS_PER_CELL, TextReader, TextStates


@dataclass(frozen=True, eq=False)
class Host:
    """What ``weft.attach`` and every fit work on; made by ``weft.attach.resolve``.

    Attributes:
        pipeline: None where there is a denoiser alone.
        model: The denoiser, without the wrapper of ``torch.compile``.
        family: What weft knows of it.
    """

    pipeline: Any
    model: Any
    family: Family

    @property
    def denoiser(self) -> Any:
        """What is called: the model, or what ``torch.compile`` made of it."""
        return self.model if self.pipeline is None else getattr(self.pipeline, self.family.part)

    @property
    def current_model(self) -> Any:
        """The denoiser that the pipeline has now, without the wrapper of ``torch.compile``."""
        return getattr(self.denoiser, "_orig_mod", self.denoiser)

    def sampler_entry(self) -> tuple[int, int] | None:
        """The entry of its schedule that the pipeline's sampler is at, and how many entries a step of it has.

        None where the sampler does not count, or not yet.
        """
        scheduler = getattr(self.pipeline, "scheduler", None)
        entry = getattr(scheduler, "step_index", None)
        return None if entry is None else (int(entry), int(getattr(scheduler, "order", 1)))

    @property
    def encodes_prompts(self) -> bool:
        """Whether there is a pipeline that encodes prompts by its public method."""
        return hasattr(self.pipeline, "encode_prompt")

    def tokenizers(self) -> list[tuple[TextReader, Any]]:
        """Those that the pipeline has, in its order."""
        found = ((reader, getattr(self.pipeline, reader.tokenizer, None)) for reader in self.family.readers)
        return [(reader, tokenizer) for reader, tokenizer in found if tokenizer is not None]

    def text_encoders(self) -> list[tuple[TextReader, Any]]:
        """Those that the pipeline has, in its order."""
        found = ((reader, getattr(self.pipeline, reader.encoder, None)) for reader in self.family.readers)
        return [(reader, encoder) for reader, encoder in found if encoder is not None]

    def sharing_readers(self) -> list[tuple[Any, Any]]:
        """(tokenizer, text encoder) of the readers that share positions, as far as the pipeline has both."""
        encoders = dict(self.text_encoders())
        return [
            (tokenizer, encoders[reader])
            for reader, tokenizer in self.tokenizers()
            if reader in encoders and not reader.follows
        ]

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str], text_length: int | None = None) -> TextStates:
        """Encode captions as the pipeline encodes prompts.

        Args:
            text_length: Tokens of T5, or of the zeros in its place; None for what the pipeline has. Read by Stable
                Diffusion 3 alone.
        """
        return self.family.encode_captions(self.pipeline, captions, text_length)

    @property
    def pixels_per_cell(self) -> int:
        """Pixels of the image along each side of a cell of the latent."""
        return int(getattr(self.pipeline, "vae_scale_factor", PIXELS_PER_CELL)) // self.family.cells_in_scale

    @property
    def native_size(self) -> int:
        """Side in pixels of the pictures that the model was made for."""
        return self.family.native_cells(self.model) * self.pixels_per_cell

    @property
    def size_step(self) -> int:
        """What the side of a picture must be a multiple of, in pixels."""
        return max(8, self.pixels_per_cell * self.family.patch(self.model))
