"""What generators take and what they give."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Text:
    """Encoded captions.

    Attributes:
        words: [B, T, W].
        sentence: [B, W].
        padding: bool [B, T], True where there is no word.
    """

    words: Tensor
    sentence: Tensor
    padding: Tensor


@dataclass(frozen=True, eq=False)
class Drawn:
    """Generated pictures.

    Attributes:
        images: One tensor a stage, [B, 3, h, w] in [-1, 1], the largest last.
        divergence: 0-dim, of the condition that the sentence was augmented to from a normal one; None without.
    """

    images: tuple[Tensor, ...]
    divergence: Tensor | None = None

    @property
    def image(self) -> Tensor:
        """The largest."""
        return self.images[-1]

    def detach(self) -> Drawn:
        """Without a way back to the generator."""
        return Drawn(tuple(image.detach() for image in self.images))
