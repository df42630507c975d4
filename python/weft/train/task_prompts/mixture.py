"""Kinds of samples that the tasks learn from, and how often each comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import tyro

from weft._checked import Checked

Kind = Literal["image", "outpaint", "context", "object", "shape"]

OF_OBJECTS: tuple[Kind, ...] = ("object", "shape")


@dataclass(frozen=True)
class Mixture(Checked):
    """How often a sample is of which kind, and what is left out of its text.

    The defaults are those of the released training code for an inpainting UNet.
    """

    # "image" is all hole, with the caption; a picture without known objects takes part in "image", "outpaint" and
    # "context" alone. A mapping of the Python API, which the command line leaves out
    shares: Annotated[Mapping[Kind, float], tyro.conf.Suppress] = field(
        default_factory=lambda: {"image": 0.1, "outpaint": 0.1, "context": 0.2, "object": 0.3, "shape": 0.3}
    )
    context_caption: float = 0.2
    """Share of random holes with the caption."""
    caption_dropout: float = 0.3
    """Share of holes of objects whose text is empty beside the task prompt."""
    # holes of objects always have their task prompt, or a model learns to make objects of nothing
    dropout: float = 0.1
    """Share of the others that have neither text nor task prompt, for guidance."""
    # or the context prompt learns to make objects; hidden ones are cut out only where no such hole was found
    spares_objects: bool = False
    """Random holes leave something of every object, so that the context prompt does not learn to make any."""
    # without, a model may infer the task from the shape of holes, and ignore the prompts
    borrowed: float = 0.0
    """Share of random holes with the box or the outline of an object of another picture: tasks must then be known by
    their prompts, not by the looks of holes."""
    # later prompts then match what was learnt, for models to which the words mean nothing
    worded: float = 0.0
    """Share of empty captions of random holes that are the words which removal says beside its prompt."""

    def check(self) -> None:
        known = get_args(Kind)
        if not self.shares or set(self.shares) - set(known) or min(self.shares.values()) < 0:
            raise ValueError(
                f"Mixture: `shares` must be of {', '.join(map(repr, known))}, none below 0; got {dict(self.shares)}"
            )
        if not any(share > 0 for kind, share in self.shares.items() if kind not in OF_OBJECTS):
            raise ValueError("Mixture: `shares` must have some of 'image', 'outpaint' or 'context', for guidance")
        for name in ("context_caption", "caption_dropout", "dropout", "borrowed", "worded"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Mixture: `{name}` must be between 0 and 1; got {getattr(self, name)}")
