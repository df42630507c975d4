"""The stand-in of a joint attention, in which image and text attend to each other.

Controls speak of it as of a cross-attention: queries are the image's, keys the text's. What else a joint attention
has, the queries of the text and the keys of the image, keeps its logits.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from weft.attach.processors.seam import Seam
from weft.attach.processors.views import JointView
from weft.attach.records import LayerInfo


class JointSeam(Seam):
    """Further tokens of a block reach its attention as keys and values.

    Attributes:
        tokens: What is added to the text in the coming call, [B, m, C], modulated as the text itself.
    """

    def __init__(self, original: Any, layer: LayerInfo, backend: str | None, *, number: int = 0) -> None:
        super().__init__(original, layer, backend, number=number)
        self.tokens: Tensor | None = None

    def run(self, attn: Any, *args: Any, **kwargs: Any) -> Any:
        tokens, self.tokens = self.tokens, None
        return super().run(attn if tokens is None else JointView(attn, tokens), *args, **kwargs)
