"""Kinds of samples that the tasks learn from, and how often each comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal["image", "outpaint", "context", "object", "shape"]

OF_OBJECTS: tuple[Kind, ...] = ("object", "shape")


@dataclass(frozen=True)
class Mixture:
    """How often a sample is of which kind, and what is left out of its text.

    The defaults are those of the released training code for an inpainting UNet.

    Attributes:
        shares: Kind -> share. "image" is all hole, with the caption; a picture without known objects takes part in
            "image", "outpaint" and "context" alone.
        context_caption: Share of "context" with the caption.
        caption_dropout: Share of "object" and "shape" whose text is empty beside the task prompt.
        dropout: Share of the others that have neither text nor task prompt, for guidance. Holes of objects always
            have their task prompt, or a model learns to make objects of nothing.
        spares_objects: A random hole in "context" and "outpaint" should leave something of every object that it
            touches, or the context prompt learns to make objects; hidden ones are cut out only where no such hole
            was found.
        borrowed: Share of "context" whose hole has the box or the outline of an object of another picture. Without,
            a model may tell tasks by the looks of holes, and need no prompts.
        worded: Share of "context" and "outpaint" without a caption that have the words of the removal's recipe
            instead: what is said later is then what was learnt, for models to which they mean nothing.
    """

    shares: Mapping[Kind, float] = field(
        default_factory=lambda: {"image": 0.1, "outpaint": 0.1, "context": 0.2, "object": 0.3, "shape": 0.3}
    )
    context_caption: float = 0.2
    caption_dropout: float = 0.3
    dropout: float = 0.1
    spares_objects: bool = False
    borrowed: float = 0.0
    worded: float = 0.0

    def __post_init__(self) -> None:
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
