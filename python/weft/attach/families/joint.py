"""Joint transformers as data: which tokens of their attention are text and which are pixels, and in which grid.

Their processors run as they are (``processors.seam``), so that a family says only what the call of attention cannot.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from weft.attach.families.family import Family, Widths, bare_layer
from weft.attach.processors.joint import JointSeam
from weft.attach.processors.rebinding import refusal
from weft.attach.processors.seam import Seam, bound
from weft.attach.processors.text_cache import TextCache
from weft.attach.records import DenoiserCall, LayerInfo, ProjectionInfo, Ranges, TextReader

# (arguments of the denoiser's forward by name) -> (h, w) of the grid of pixels, as the blocks see them
Grid = Callable[[Mapping[str, Any]], tuple[int, int]]


@dataclass(frozen=True)
class Joint(Family):
    """A family of transformers whose blocks attend to text and image in one sequence.

    For a model of your own, give ``weft.attach`` one of these: its attentions must have processors, as those of
    diffusers do, that call ``dispatch_attention_fn`` or ``F.scaled_dot_product_attention``.

    Attributes:
        text, image, timestep: Arguments of the model's ``forward``: the text [B, Nk, C], the latent [B, C, h, w] or
            packed [B, N, C], and the timestep.
        text_first: Text comes before the image in the sequence; otherwise behind it.
        position_ids: The argument that holds positions of the image tokens, [N, axes] or [B, N, axes] as
            (picture, row, column, ...); pictures after the first are references. None where ``grid`` says the size, or
            the latent is [B, C, h, w].
        grid: The size of the picture that is made, in tokens; None for what ``position_ids`` or the latent has.
        patch_size: Cells of the latent along each side of a token, a power of two.
        attentions: A pattern that the whole path of an attention must match to be served.
        image_projections: One for the linear layers that end a block's branch to the image, in which residuals sit;
            None for none.
        joint_projections: Likewise of layers that end the branch to text and image in one, and have rows of both.
        classes: Names of the classes of the models; none for a model of your own.
        about: What it is, for messages.
        part: The denoiser's name in a pipeline.
        readers: What its pipelines read a prompt with.
        noisiest: The timestep of pure noise, as the model is given it.
        cells_in_scale: Cells of the latent along each side of what the pipeline calls its ``vae_scale_factor``.
        adds_mask: Its mask is u_i * u_j of a vector of zeros and ones [B, N], and is added to the logits.
        shares_real: Maps are shares of the text tokens that are no padding, which takes part in its attention.

    Example:
        >>> family = weft.attach.Joint(text="context", image="x", timestep="t", patch_size=2)
        >>> with weft.attach(model, weft.AttentionMaps([3, 4]), family=family) as attachment:
        ...     model(x=latents, t=t, context=text)
    """

    text: str = "encoder_hidden_states"
    image: str = "hidden_states"
    timestep: str = "timestep"
    text_first: bool = True
    position_ids: str | None = None
    grid: Grid | None = None
    patch_size: int = 1
    attentions: str = r"(single_)?(transformer_)?blocks\.\d+\.attn"
    image_projections: str | None = None
    joint_projections: str | None = None
    classes: tuple[str, ...] = ()
    about: str = "a joint transformer"
    part: str = "transformer"
    readers: tuple[TextReader, ...] = ()
    perturbs: str | None = None
    noisiest: float = 1000.0
    is_flow: bool = True
    cells_in_scale: int = 1
    adds_mask: bool = False
    shares_real: bool = True
    _grids: PositionGrids = field(default_factory=lambda: PositionGrids(), repr=False, compare=False)

    takes_tokens = False  # its text has positions, and a stream of its own in every block
    is_trained = False  # the calls of these models differ

    @property
    def latent(self) -> str:  # type: ignore[override]
        return self.image

    @property
    def model_names(self) -> tuple[str, ...]:
        return self.classes

    def refuse_layer(self, model: Any, name: str, attn: Any) -> str | None:
        if not re.fullmatch(self.attentions, name):
            return "not an attention of image and text in the denoiser's blocks"
        return None

    def refuse_processor(self, attn: Any, processor: type) -> str | None:
        return refusal(processor)

    def layer_info(self, model: Any, name: str, attn: Any) -> LayerInfo:
        head_dim = getattr(attn, "head_dim", None) or attn.inner_dim // attn.heads
        return LayerInfo(name, True, attn.heads, head_dim, self.patch(model).bit_length() - 1, True, self.takes_tokens)

    def stand_in(self, processor: Any, layer: LayerInfo, cache: TextCache, backend: str | None) -> Seam:
        host: Any = type(processor)
        return bound(JointSeam, host)(processor, layer, backend)

    def widths(self, model: Any) -> Widths:
        return Widths(int(model.config.joint_attention_dim))

    def projections(self, model: Any) -> tuple[ProjectionInfo, ...]:
        level = self.patch(model).bit_length() - 1
        found = []
        for pattern, has_text in ((self.image_projections, False), (self.joint_projections, True)):
            names = [name for name, _ in model.named_modules() if pattern and re.fullmatch(pattern, name)]
            layers = [(name, bare_layer(model, name)) for name in names]
            found += [
                ProjectionInfo(name, layer.out_features, layer.in_features, False, level, has_text)
                for name, layer in layers
            ]
        return tuple(found)

    def patch(self, model: Any) -> int:
        return self.patch_size

    def latent_size(self, model: Any, call: DenoiserCall) -> tuple[int, int]:
        if self.grid is not None:
            h, w = self.grid(call.arguments)
        elif self.position_ids is not None:
            h, w = self._grids.of(call.arguments[self.position_ids])
        else:
            return super().latent_size(model, call)
        return h * self.patch(model), w * self.patch(model)

    def ranges(self, model: Any, call: DenoiserCall, latent_size: tuple[int, int]) -> Ranges | None:
        patch, texts = self.patch(model), call.text.shape[1]
        pixels = (latent_size[0] // patch) * (latent_size[1] // patch)
        image_tokens = call.sample.shape[1] if call.sample.ndim == 3 else pixels
        first = texts if self.text_first else 0
        text = 0 if self.text_first else image_tokens
        return Ranges(slice(first, first + pixels), slice(text, text + texts), texts + image_tokens, self.adds_mask)


class PositionGrids:
    """Sizes of pictures by the positions of their tokens; read from the device once per tensor of positions."""

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[Tensor], tuple[int, int]] | None = None

    def of(self, ids: Tensor) -> tuple[int, int]:
        """(h, w) of the first picture in ``ids`` [N, axes] or [B, N, axes], columns (picture, row, column, ...)."""
        if self._known is not None and self._known[0]() is ids:
            return self._known[1]
        rows = (ids[0] if ids.ndim == 3 else ids).detach().cpu()
        first = rows[rows[:, 0] == rows[0, 0]][:, 1:3]
        h, w = (int(side) for side in first.max(0).values - first.min(0).values + 1)
        self._known = (weakref.ref(ids), (h, w))
        return h, w
