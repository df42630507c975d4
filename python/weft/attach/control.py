"""What a control is: the methods that an attachment calls, with the data of ``records``.

A control never sees a module of the model. Before every pass of the denoiser it is asked, layer by layer, what it
wants (``request_layer``); after the pass it is handed what it asked to read (``read_maps``). Both happen in plain
Python outside any compiled region, so a control may keep whatever state it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from weft.attach.pipeline_call import Around
from weft.attach.records import (
    BaseModel,
    DenoiserCall,
    Generation,
    LayerInfo,
    LayerRequest,
    ProjectionInfo,
    ProjectionTerms,
    Step,
)

if TYPE_CHECKING:
    from PIL import Image


class Control:
    """Base class of everything ``weft.attach`` takes. Every method may be left out.

    Called in this order: ``attached`` once; then per generation ``begin_generation``; per step ``begin_step``; per
    pass ``request_layer`` for every layer, ``add_to_projection`` for every projection, ``add_at_places``,
    ``replace_text``, ``read_maps`` for every layer that ran with a read-out, ``end_pass``; at the end ``detached``.
    What ``begin_generation`` raises stops the sampler before its first pass.

    A logit edit (MaskDiffusion, a layout) returns its tables and labels from ``request_layer``, where
    ``step.timestep`` sets their strength, and learns regions in ``read_maps``. A method that acts within the pass
    itself (LAG, which gates the projection behind an attention) lets a ``sink`` write into the gate of the terms that
    ``add_to_projection`` returned.

    A copy (``copy.deepcopy``, ``pickle``) has the settings of a control and is not attached, whatever the original is
    doing: what a control has read or drawn belongs to its own attachment and stays with it. Pickle ``control.maps``
    to keep them.

    Attributes:
        adds_to_projections: Whether ``add_to_projection`` is called. The projections of a model are taken over only
            for controls that say so, and given back with the last of them.
        adds_at_places: Whether ``add_at_places`` is called; likewise for the places of a UNet.
        needs_attention: It can do nothing where weft serves no attention layer.
    """

    adds_to_projections: ClassVar[bool] = False
    adds_at_places: ClassVar[bool] = False

    @property
    def needs_attention(self) -> bool:
        return type(self).request_layer is not Control.request_layer

    def start_blank(self) -> None:
        """Set every attribute that belongs to an attachment as it is before any; for ``__init__`` and for copies."""

    def __getstate__(self) -> dict[str, Any]:
        blank = object.__new__(type(self))
        blank.start_blank()
        return {**vars(self), **vars(blank)}

    def settings(self) -> dict[str, Any]:
        """What decides what this control does, for the record beside a picture."""
        return {}

    def pictures(self, over: Image.Image, index: int = 0) -> dict[str, Image.Image]:
        """What this control did to image ``index`` of its last batch, drawn over that image, by caption."""
        return {}

    def recommended(self) -> dict[str, Any]:
        """Arguments of the pipeline's call that what was trained is best drawn with; a user's own come before them."""
        return {}

    def check_model(self, model: BaseModel) -> None:
        """Raise where this control was not made for the model; asked before ``attached``, once."""

    def wrap_calls(self, pipeline: Any) -> Around | None:
        """What runs in place of every call of ``pipeline`` (None where there is only a model), and may call it.

        Raise where the control was not made for such a pipeline. Asked before ``attached``, once.
        """
        return None

    def attached(self, layers: tuple[LayerInfo, ...]) -> None:
        """The model was taken over, or its layers have changed since; ``layers`` are those that can be asked for."""

    def begin_generation(self, generation: Generation) -> None:
        """A new run of the sampler begins; forget the last one."""

    def begin_step(self, step: Step) -> None:
        """The first pass at a new timestep is about to run."""

    def replace_text(self, text: Tensor, step: Step) -> Tensor:
        """The conditioning that this pass should see in place of ``text`` [B, Nk, C]; of the same shape and dtype.

        Return the same object for as long as ``text`` is the same, or its keys and values are computed every step.
        """
        return text

    def request_layer(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        """What this layer should do at this step; None leaves it alone."""
        return None

    def add_to_projection(self, projection: ProjectionInfo, step: Step) -> ProjectionTerms | None:
        """What the projection that ends a transformer block should add in this pass; None runs the model's own.

        At most one control may add to a projection in a pass.
        """
        return None

    def add_at_places(self, call: DenoiserCall, step: Step) -> Sequence[Tensor] | None:
        """What this pass should add within a UNet: a tensor for each of ``weft.attach.places``, or nothing.

        At most one control may add something in a pass.
        """
        return None

    def read_maps(self, layer: LayerInfo, step: Step, maps: Tensor) -> None:
        """Take the maps asked for from ``layer``, [B, Nq, M] fp32 (fp64 in a float64 model), all rows of the batch."""

    def end_pass(self, step: Step) -> None:
        """The pass is over and all its maps were read."""

    def detached(self) -> None:
        """The control was removed or the model given back."""
