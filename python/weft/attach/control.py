"""What a control is, and the small records through which it speaks with an attachment.

A control never sees a module of the model. Before every pass of the denoiser it is asked, layer by layer, what it
wants (``request``); after the pass it is handed what it asked to read (``read``). Both happen in plain Python outside
any compiled region, so a control may keep whatever state it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from weft.attach.levels import grid_at
from weft.ops import Edit

if TYPE_CHECKING:
    from weft.attach.base_model import BaseModel
    from weft.attach.extra_text import ExtraText
    from weft.attach.generation import DenoiserCall
    from weft.attach.pipeline_call import Around
    from weft.attach.projections import ProjectionInfo, ProjectionTerms
    from weft.attach.text.prompt import Prompt


@dataclass(frozen=True)
class LayerInfo:
    """One attention layer that an attachment has taken over.

    A layer whose pixels see the text is asked in one language, whatever else it has: queries are pixels, keys text
    tokens, maps [B, Nq, M] of pixels. In a joint attention (``is_joint``) pixels attend to each other and to the text
    in one softmax, and the text attends likewise: an edit moves the logits of pixels towards text alone, while row
    maximum and minimum run over all keys of the row; and a pixel's attention to the text does not sum to 1, so divide
    by a read-out of ones where its share matters.

    Attributes:
        name: Its path in the model, such as "down_blocks.0.attentions.0.transformer_blocks.0.attn2".
        is_cross: Keys are text tokens, in a joint attention beside the pixels; otherwise they are the pixels alone.
        heads: H.
        head_dim: D.
        level: How often the latent was halved before this layer; 0 is the latent's own resolution.
        is_joint: Text and pixels are keys and queries of one attention.
    """

    name: str
    is_cross: bool
    heads: int
    head_dim: int
    level: int
    is_joint: bool = False

    def grid(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the layer's queries, Nq = h * w, for a latent of ``latent_size`` = (h, w)."""
        return grid_at(self.level, latent_size)


@dataclass(frozen=True)
class Generation:
    """One run of the sampler, from its first pass of the denoiser to its last.

    Attributes:
        index: Counts generations since the model was attached, from 0.
        prompt: The text behind the conditioning; None where it did not come from ``encode_prompt`` of the pipeline.
        latent_size: (h, w) of the latent.
        image_size: (h, w) of the image in pixels.
        images: How many images are being made.
        device: Where the conditioning lives.
        dtype: What tables, read-outs and gates must be: float32, or float64 in a float64 model.
        model_dtype: What the denoiser computes in; factors of ``project`` in another dtype are cast at every call.
    """

    index: int
    prompt: Prompt | None
    latent_size: tuple[int, int]
    image_size: tuple[int, int]
    images: int
    device: torch.device
    dtype: torch.dtype
    model_dtype: torch.dtype

    def conditional_rows(self, batch: int) -> slice:
        """Rows of a denoiser's batch that carry the prompt; all of them where nothing is known about it.

        Raises:
            ValueError: ``batch`` does not fit the images of the prompt.
        """
        return slice(0, batch) if self.prompt is None else self.prompt.conditional_rows(batch)


@dataclass(frozen=True)
class Step:
    """One pass of the denoiser. Passes at the same timestep (second-order samplers) belong to one step.

    Attributes:
        index: Number of the step in its generation, from 0.
        timestep: As the sampler gave it, in the units of its training schedule.
        generation: The generation it belongs to.
        batch: B, rows of the denoiser's batch.
        seqlen_k: Text tokens a row, Nk of cross-attention.
        is_perturbed: The pass leaves a part of the denoiser out, to be guided away from (``skip_guidance_layers`` of
            Stable Diffusion 3.5): what it attends to says nothing of the image.
    """

    index: int
    timestep: float
    generation: Generation
    batch: int
    seqlen_k: int
    is_perturbed: bool = False

    @property
    def conditional(self) -> slice:
        """The rows that carry the prompt; the others are unconditional or perturbed. Raises as the generation's."""
        return self.generation.conditional_rows(self.batch)


@dataclass(frozen=True, eq=False)
class LayerRequest:
    """What a control wants of one layer at one step; arguments of ``weft.ops.attention``.

    Return the same object as long as the same is wanted: requests of several controls are joined once per
    combination of objects. Tables and read-outs have the dtype of the generation.

    Attributes:
        edit: Tables of a logit edit. At most one control may edit a layer at a step.
        query_labels, key_labels: Label of each query and key in ``edit``.
        readout: W, [B or 1, Nk, M]. Several controls' columns are laid side by side; each reads its own.
            Read-outs see the probabilities after the edit.
        sink: Takes the maps, [B, Nq, M] of all rows, as soon as the layer has them, in place of ``Control.read``
            after the pass: for what acts later in the same pass. It runs inside compiled regions, so it must be plain
            tensor code, without waiting for the device.
        extra: Tokens that this layer sees after the text; at most one control may add some to a layer. Edits
            pass them over, and no read-out has them.
    """

    edit: Edit | None = None
    query_labels: Tensor | None = None
    key_labels: Tensor | None = None
    readout: Tensor | None = None
    sink: Callable[[Tensor], None] | None = None
    extra: ExtraText | None = None


class Control:
    """Base class of everything ``weft.attach`` takes. Every method may be left out.

    Called in this order: ``attached`` once; then per generation ``begin_generation``; per step ``begin_step``; per
    pass ``request`` for every layer, ``project`` for every projection, ``inject``, ``text``, ``read`` for every layer
    that ran with a read-out, ``end_pass``; at the end ``detached``. What ``begin_generation`` raises stops the sampler
    before its first pass.

    A logit edit (MaskDiffusion, a layout) returns its tables and labels from ``request``, where ``step.timestep``
    sets their strength, and learns regions in ``read``. A method that acts within the pass itself (LAG, which gates
    the projection behind an attention) lets a ``sink`` write into the gate of the terms that ``project`` returned.

    A copy (``copy.deepcopy``, ``pickle``) has the settings of a control and is not attached, whatever the original is
    doing: what a control has read or drawn belongs to its own attachment and stays with it. Pickle ``control.maps``
    to keep them.

    Attributes:
        projects: Whether ``project`` is to be asked. The projections of a model are taken over only for controls that
            say so, and given back with the last of them.
        injects: Whether ``inject`` is to be asked; likewise for the places within a UNet.
    """

    projects: ClassVar[bool] = False
    injects: ClassVar[bool] = False

    def start_blank(self) -> None:
        """Set every attribute that belongs to an attachment as it is before any; for ``__init__`` and for copies."""

    def __getstate__(self) -> dict[str, Any]:
        blank = object.__new__(type(self))
        blank.start_blank()
        return {**vars(self), **vars(blank)}

    def check_model(self, model: BaseModel) -> None:
        """Raise where this control was not made for the model; asked before ``attached``, once."""

    def around_calls(self, pipeline: Any) -> Around | None:
        """What stands around every call of ``pipeline`` (None where there is only a model); nothing unless overridden.

        Raise where the control was not made for such a pipeline. Asked before ``attached``, once.
        """
        return None

    def attached(self, layers: tuple[LayerInfo, ...]) -> None:
        """The model was taken over, or its layers have changed since; ``layers`` are those that can be asked for."""

    def begin_generation(self, generation: Generation) -> None:
        """A new run of the sampler begins; forget the last one."""

    def begin_step(self, step: Step) -> None:
        """The first pass at a new timestep is about to run."""

    def text(self, text: Tensor, step: Step) -> Tensor:
        """The conditioning that this pass should see in place of ``text`` [B, Nk, C]; of the same shape and dtype.

        Return the same object for as long as ``text`` is the same, or its keys and values are computed every step.
        """
        return text

    def request(self, layer: LayerInfo, step: Step) -> LayerRequest | None:
        """What this layer should do at this step; None leaves it alone."""
        return None

    def project(self, projection: ProjectionInfo, step: Step) -> ProjectionTerms | None:
        """What the projection that ends a transformer block should add in this pass; None runs the model's own.

        At most one control may add to a projection in a pass.
        """
        return None

    def inject(self, call: DenoiserCall, step: Step) -> Sequence[Tensor] | None:
        """What this pass should add within a UNet: a tensor for each of ``weft.attach.injection.places``, or nothing.

        At most one control may add something in a pass.
        """
        return None

    def read(self, layer: LayerInfo, step: Step, maps: Tensor) -> None:
        """Take the maps asked for from ``layer``, [B, Nq, M] fp32 (fp64 in a float64 model), all rows of the batch."""

    def end_pass(self, step: Step) -> None:
        """The pass is over and all its maps were read."""

    def detached(self) -> None:
        """The control was removed or the model given back."""
