"""PowerPaint: one inpainting model with five tasks, chosen by learnt prompts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.attach import Around, word_widths
from weft.methods.inpainting import PasteBack, check_host
from weft.methods.powerpaint import prompts_file as file
from weft.methods.powerpaint import prompts_published as published
from weft.methods.powerpaint.prompts_text import PromptEncoder, Vectors
from weft.methods.powerpaint.prompts_weights import load_weights
from weft.methods.powerpaint.recipes import (
    DIALECTS,
    NAMES,
    PLACEMENTS,
    QUALITY_WORDS,
    Placement,
    PromptName,
    Recipe,
)
from weft.methods.powerpaint.tasks import Arguments, InpaintingTasks
from weft.methods.sampling import OPEN, Sampling

__all__ = ["PasteBack", "TaskPrompts"]


@dataclass(eq=False)
class TaskPrompts(InpaintingTasks):
    """Three learnt prompts that select what an inpainting model does, while pixels outside the hole are kept.

    "context" continues what is around the hole, "object" makes what the text says, "shape" makes it fill the hole.

        with weft.attach(pipe, tasks):  # a stock StableDiffusionInpaintPipeline
            pipe(prompt="", image=image, mask_image=mask, **tasks.removal()).images[0]

    The methods give arguments for the pipeline: embeddings, and a guidance scale that holds where the call names none
    (``pipe(..., **tasks.removal(), guidance_scale=5)`` and ``tasks.removal(guidance_scale=5)`` are the same). Texts
    may be lists, a text for each picture.

    While attached, the pipeline's images are as large as those it was given, and equal to them outside the
    hole and a thin rim, bit for bit; ``paste_back`` says how. Nothing of the pipeline is changed: the vectors are in
    for a word's embedding while a text is encoded, and no token is added.

    Attributes:
        vectors: Prompt -> one [n, C] fp32 for each text encoder.
        placement: "after" the user's text, which is shortened rather than they; "before" it; or "released", after it
            and cut off together with it, which warns.
        dialect: "weft"; "main-v1" for released weights, whose quality words then are the default; "dev".
        base_name: The model they were trained on.
        init: How they began.
        paste_back: How pictures are cut for the model and put together again; None gives what the pipeline itself
            makes, at its own size.
        sampling: How pictures are best drawn with them; its guidance replaces those of the recipes.

    Raises:
        TypeError, ValueError: Values that are not as above. A pipeline that is not made for inpainting, or has other
            text encoders, is refused when attaching.

    Source:
        Zhuang et al. 2024, arXiv:2312.03594, as in its released code.
    """

    vectors: Mapping[PromptName, Vectors] = field(repr=False)
    placement: Placement = "after"
    dialect: str = "weft"
    base_name: str = "unnamed"
    init: str = ""
    paste_back: PasteBack | None = field(default_factory=PasteBack)
    sampling: Sampling = OPEN

    def __post_init__(self) -> None:
        _check(self.vectors, self.placement, self.dialect)
        self.vectors = {name: tuple(self.vectors[name]) for name in NAMES}

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of the vectors for every text encoder."""
        return tuple(vector.shape[1] for vector in self.vectors["context"])

    # --- files ----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a safetensors file, whole or not at all.

        Args:
            path: The file; an existing one is replaced.
            dtype: What vectors are stored as.

        Raises:
            OSError: It cannot be written.
        """
        file.write(Path(path), self.vectors, self._record(), dtype)

    def _record(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in file.RECORD} | self.sampling.record()

    @classmethod
    def load(cls, path: str | Path, *, into: Any = None, dialect: str | None = None) -> TaskPrompts:
        """Read what ``save`` wrote, or released weights of PowerPaint v1, known by the names of their tensors.

        Args:
            path: A file of weft; the released folder, with ``text_encoder/text_encoder.safetensors``; a folder in
                diffusers' layout whose tokenizer has the 30 tokens; or a text encoder's file out of one of these.
            into: An inpainting pipeline that gets the UNet and the text encoder of the folder, for good. A pipeline
                loaded from a folder in diffusers' layout has them already.
            dialect: "main-v1" or "dev", for a text encoder without a tokenizer that gives the order of its tokens.

        Raises:
            FileNotFoundError: There is nothing, or a part is missing.
            ValueError: It is cut short, damaged, or something else, which is named; or does not fit ``into``.
        """
        path = Path(path)
        found = published.find(path)
        if file.KEY in found.metadata:
            if into is not None or dialect is not None:
                raise ValueError(
                    f"TaskPrompts.load: {path} is of weft; `into` and `dialect` belong to released weights"
                )
            vectors, record = file.read(found.path)
            return cls(vectors, **record)
        known = published.read(found, dialect)
        if known.dialect == "dev":
            warnings.warn(
                f"TaskPrompts.load: {path} is of {DIALECTS['dev'].what}, whose UNet was shown holes in black; "
                "diffusers shows them in grey, so that results differ",
                stacklevel=2,
            )
        if into is not None:
            load_weights(into, path)
        style = DIALECTS[known.dialect]
        return cls(
            {name: (vectors,) for name, vectors in known.vectors.items()},
            placement=style.placement,
            dialect=known.dialect,
            base_name=style.what,
            init="released",
        )

    # --- control --------------------------------------------------------------------------------------------------

    def wrap_calls(self, pipeline: Any) -> Around:
        check_host(pipeline, who="TaskPrompts")
        if word_widths(pipeline) != self.widths:
            raise ValueError(
                f"TaskPrompts: prompts of {self.base_name!r} have vectors of width {_listed(self.widths)} and do not "
                f"fit this pipeline, whose text encoders have {_listed(word_widths(pipeline))}; use the model they "
                "were trained on, or a finetune of that"
            )
        self._pipe = pipeline
        return self._call

    def detached(self) -> None:
        self._pipe = None

    def _prompt_arguments(self, recipe: Recipe, texts: list[str], negatives: list[str], fit: float) -> Arguments:
        quality = recipe.quality_words
        if quality is None:
            quality = QUALITY_WORDS if DIALECTS[self.dialect].quality_words else ""
        encoder = PromptEncoder(self._pipe, self.vectors, self.placement)
        return dict(encoder.conditioning(recipe, texts, negatives, fit, quality))


def _listed(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))


def _check(vectors: Any, placement: Any, dialect: Any) -> None:
    for name, value, known in (("placement", placement, PLACEMENTS), ("dialect", dialect, tuple(DIALECTS))):
        if value not in known:
            raise ValueError(f"TaskPrompts: `{name}` must be one of {', '.join(map(repr, known))}; got {value!r}")
    if not isinstance(vectors, Mapping) or set(vectors) != set(NAMES):
        raise ValueError(
            f"TaskPrompts: `vectors` must have the prompts {', '.join(map(repr, NAMES))}; got {vectors!r}"
        )
    for name, own_vectors in vectors.items():
        if not own_vectors or not all(isinstance(one, Tensor) and one.is_floating_point() for one in own_vectors):
            raise TypeError(f"TaskPrompts: the vectors of {name!r} must be float tensors, one for each text encoder")
        for one in own_vectors:
            if one.ndim != 2 or 0 in one.shape or not bool(one.isfinite().all()):
                raise ValueError(
                    f"TaskPrompts: the vectors of {name!r} must be finite matrices [n, C]; got {list(one.shape)}"
                )
        if len({len(one) for one in own_vectors}) > 1:
            raise ValueError(f"TaskPrompts: the vectors of {name!r} must be equally many for every text encoder")
    if len({tuple(one.shape[1] for one in own_vectors) for own_vectors in vectors.values()}) > 1:
        raise ValueError("TaskPrompts: the vectors of all prompts must have the same widths")
