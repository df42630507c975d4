"""The plain data that an attachment and its controls exchange; nothing here knows a module of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from weft.attach.text.prompt import Prompt
from weft.ops import Edit

PIXELS_PER_CELL = 8  # along each side of a cell of the latent, where no pipeline says otherwise


@dataclass(frozen=True)
class LayerInfo:
    """One attention layer that an attachment has taken over.

    A layer whose pixels see the text takes the same requests in every model: queries are pixels, keys text
    tokens, maps [B, Nq, M] of pixels. In a joint attention (``is_joint``) pixels attend to each other and to the text
    in one softmax, and the text attends likewise: an edit moves the logits of pixels towards text alone, while row
    maximum and minimum run over all keys of the row; and a pixel's attention to the text does not sum to 1, so divide
    by a read-out of ones where its share matters. An edit of the other logits gives labels to pixels as keys and to
    text as queries, too (``LayerRequest.pixel_key_labels``).

    Attributes:
        name: Its path in the model, such as "down_blocks.0.attentions.0.transformer_blocks.0.attn2".
        is_cross: Keys are text tokens, in a joint attention beside the pixels; otherwise they are the pixels alone.
        heads: H.
        head_dim: D.
        level: How often the latent was halved before this layer; 0 is the latent's own resolution.
        is_joint: Text and pixels are keys and queries of one attention.
        takes_tokens: Further tokens can be added behind its text.
    """

    name: str
    is_cross: bool
    heads: int
    head_dim: int
    level: int
    is_joint: bool = False
    takes_tokens: bool = True

    def grid(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the layer's queries, Nq = h * w, for a latent of ``latent_size`` = (h, w)."""
        return grid_at(self.level, latent_size)


@dataclass(frozen=True)
class Generation:
    """One run of the sampler, from its first pass of the denoiser to its last.

    Attributes:
        index: Counts generations since the model was attached, from 0.
        prompt: The text behind the conditioning of its first pass that has one; None where it did not come from
            ``encode_prompt`` of the pipeline.
        latent_size: (h, w) of the latent.
        image_size: (h, w) of the image in pixels.
        images: How many images are being made.
        device: Where the conditioning lives.
        dtype: What tables, read-outs and gates must be: float32, or float64 in a float64 model.
        model_dtype: What the denoiser computes in; factors of ``add_to_projection`` in another dtype are cast at every
            call.
        noisiest: The timestep of pure noise, in the units of ``Step.timestep``.
        further: Other prompts that were encoded for it, each for as many images: regional prompts take turns in a
            step, and some pipelines encode the negative prompt like any other.
    """

    index: int
    prompt: Prompt | None
    latent_size: tuple[int, int]
    image_size: tuple[int, int]
    images: int
    device: torch.device
    dtype: torch.dtype
    model_dtype: torch.dtype
    noisiest: float = 1000.0
    further: tuple[Prompt, ...] = ()


@dataclass(frozen=True)
class Step:
    """One pass of the denoiser. Several belong to one step where a sampler or its guidance needs more than one.

    Attributes:
        index: Number of the step in its generation, from 0.
        timestep: As the denoiser was given it: from 1000 to 0 in most families, from 1 to 0 in Flux and its kin.
        generation: The generation it belongs to.
        batch: B, rows of the denoiser's batch.
        seqlen_k: Text tokens a row, Nk of cross-attention.
        prompt: The text that this pass carries; None where no row carries a known one.
        conditional: The rows that carry it, one for each of the prompt's images: all where no prompt is known at all,
            none where this pass carries other text (a negative prompt, embeddings from elsewhere).
        is_perturbed: The pass leaves a part of the denoiser out, to be guided away from (``skip_guidance_layers`` of
            Stable Diffusion 3.5): what it attends to says nothing of the image.
        ranges: Where text and image are in its joint attentions; None where it has none.
    """

    index: int
    timestep: float
    generation: Generation
    batch: int
    seqlen_k: int
    prompt: Prompt | None
    conditional: slice
    is_perturbed: bool = False
    ranges: Ranges | None = None

    @property
    def noise(self) -> float:
        """Where the step is in the training schedule: 1 at pure noise, 0 at the picture."""
        return self.timestep / self.generation.noisiest

    @property
    def has_rows(self) -> bool:
        """Whether any row carries the prompt."""
        return self.conditional.stop > self.conditional.start


@dataclass(frozen=True)
class Ranges:
    """Where image and text are among the tokens of a joint attention, in queries and keys alike.

    Attributes:
        image: The pixels of the picture that is made, without those of reference pictures.
        text: The tokens of the text.
        total: Tokens in all.
        adds_mask: A mask of the attention is u_i * u_j of a vector of zeros and ones, and is added to the logits.
    """

    image: slice
    text: slice
    total: int
    adds_mask: bool = False

    def without_text(self) -> tuple[slice, int]:
        """Of the tokens that are no text: where the pixels are, and how many tokens there are."""
        texts = self.text.stop - self.text.start
        before = texts if self.text.start < self.image.start else 0
        return slice(self.image.start - before, self.image.stop - before), self.total - texts


@dataclass(frozen=True)
class DenoiserCall:
    """The arguments of the denoiser that matter here.

    Attributes:
        sample: [B, C, h, w], the latent, or [B, N, C] where a model sees it packed.
        timestep: Number or tensor, one for the whole batch.
        text: [B, Nk, C], the conditioning.
        is_perturbed: A part of the denoiser is left out.
        arguments: All that were given, by name.
    """

    sample: Tensor
    timestep: Tensor | float
    text: Tensor
    is_perturbed: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class ExtraText:
    """Tokens for an attention to the text, one set of several at a time. The same for every row of the batch.

    In a cross-attention keys and values of all sets are computed once, where nothing asks for gradients; in a joint
    attention they depend on the timestep. Another set is chosen by writing into ``row``, which recompiles nothing.
    Gradients reach ``bank``.

    Attributes:
        bank: [T, m, C], the sets, in the dtype of the conditioning.
        row: int64 [1] on the same device, the set in use.
        space: "conditioning" where the model treats them as it does its text from the start, "block" where they are
            as wide as the blocks themselves; a joint attention keeps them apart.
    """

    bank: Tensor
    row: Tensor
    space: Literal["conditioning", "block"] = "conditioning"


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
        sink: Takes the maps, [B, Nq, M] of all rows, as soon as the layer has them, in place of ``Control.read_maps``
            after the pass: for what acts later in the same pass. It runs inside compiled regions, so it must be plain
            tensor code, without waiting for the device.
        extra: Tokens that this layer sees after the text; at most one control may add some to a layer. Edits
            pass them over, and no read-out has them.
        pixel_key_labels, text_query_labels: In a joint attention, labels in ``edit`` of the pixels as keys, int32
            [B or 1, Nq], and of the text tokens as queries, [B or 1, Nk]. None where they keep their logits.
    """

    edit: Edit | None = None
    query_labels: Tensor | None = None
    key_labels: Tensor | None = None
    readout: Tensor | None = None
    sink: Callable[[Tensor], None] | None = None
    extra: ExtraText | None = None
    pixel_key_labels: Tensor | None = None
    text_query_labels: Tensor | None = None


@dataclass(frozen=True)
class ProjectionInfo:
    """One projection that ends a block of a model: ``proj_out`` of a UNet, or what a transformer has in its place.

    Attributes:
        name: Its path, such as "down_blocks.0.attentions.0.proj_out".
        width: Channels out, those of the block.
        in_width: Channels in: as many, but for blocks that end attention and feed-forward in one layer.
        is_convolution: A 1x1 convolution of images (SD1.x); otherwise a linear layer of tokens.
        level: How often the latent was halved before this block; 0 is the latent's own resolution.
        has_text: Its rows are text and image, as in the block's joint attention; otherwise the image alone.
    """

    name: str
    width: int
    in_width: int
    is_convolution: bool
    level: int
    has_text: bool = False

    @property
    def block(self) -> str:
        """Path of the transformer block, "down_blocks.0.attentions.0"."""
        return self.name.removesuffix(".proj_out")

    def grid(self, latent_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the block's pixels for a latent of ``latent_size`` = (h, w)."""
        return grid_at(self.level, latent_size)

    def pixels(self, step: Step) -> tuple[slice, int]:
        """Where the pixels of the picture are among its rows in a pass, and how many rows there are."""
        if step.ranges is None:
            h, w = self.grid(step.generation.latent_size)
            return slice(0, h * w), h * w
        return (step.ranges.image, step.ranges.total) if self.has_text else step.ranges.without_text()


@dataclass(frozen=True, eq=False)
class ProjectionTerms:
    """What a projection adds to its own output: ((x A^T) * expand(gate)) B^T, see ``weft.ops.lowrank_linear``.

    Tensors are read at every call. A control that writes into them in place (``terms.gate.copy_(mask)``) recompiles
    nothing, and a CUDA graph replays; so does an exchange for other terms of the same shapes, but for the graph.

    Attributes:
        down: A, [R, in_width], the factors applied first, those of all K concepts stacked; in the model's dtype and on
            its device, or it is cast at every call.
        up: B, [width, R].
        ranks: Rows of ``down`` that belong to each concept; None for one concept. They are sizes: new ones recompile,
            so give each slot the largest rank and fill what is left over with zeros.
        gate: fp32 (fp64 in a float64 model), [K], [B, K] or [B or 1, rows or 1, K], rows as the pixels of the block
            from left to right, top to bottom, or as ``ProjectionInfo.pixels`` says; None for 1.
        keeps_base: Add to what the module itself gave, in place of one product for both: where the gate is zero the
            result then has the bits of the module.
        backend: Of ``lowrank_linear``; None to let the library choose.
    """

    down: Tensor
    up: Tensor
    ranks: Sequence[int] | None = None
    gate: Tensor | None = None
    keeps_base: bool = False
    backend: str | None = None


@dataclass(frozen=True)
class BaseModel:
    """The architecture of a denoiser, and the name of its weights.

    Attributes:
        name: Model id, or the end of a folder's path; for people, never compared: what was trained on a model works
            on every finetune of it.
        text_width: Channels of the conditioning (768 for SD1.x, 1024 for SD2, 2048 for SDXL, 4096 for SD3).
        projections: The layers that end its blocks, in which residuals sit; none where weft knows of none.
        block_width: Channels of the text within the blocks, where the model keeps a stream of it there (1536 for
            Stable Diffusion 3); None where blocks see the conditioning itself.
    """

    name: str
    text_width: int
    projections: tuple[ProjectionInfo, ...]
    block_width: int | None = None

    def mismatch(self, layers: Mapping[str, tuple[int, int]], text_width: int, is_convolution: bool) -> str | None:
        """Why factors for ``layers`` (name -> channels in and out) do not fit this model; None when they do."""
        own = {info.name: info for info in self.projections}
        if not own:
            return "its blocks do not end in a projection, as those of a UNet or of Flux do"
        if text_width != self.text_width:
            return f"it was trained with text of width {text_width}; this model's is {self.text_width}"
        for name, widths in layers.items():
            if name not in own:
                return f"it has factors for {name}, which this model does not have"
            for there, here in zip(widths, (own[name].in_width, own[name].width), strict=True):
                if there != here:
                    return f"{name} has width {there} there and {here} here"
            if is_convolution != own[name].is_convolution:
                forms = ("a linear layer", "a 1x1 convolution")
                return f"{name} is {forms[is_convolution]} there and {forms[not is_convolution]} here"
        return None


@dataclass(frozen=True)
class TextReader:
    """A tokenizer of a pipeline and the encoder that reads its tokens.

    Attributes:
        tokenizer, encoder: Their names among the parts of the pipeline.
        prompt: The argument of ``encode_prompt`` that they read.
        follows: Its tokens follow those of the others in the conditioning; otherwise readers share positions.
        length: The argument of ``encode_prompt`` that says how many tokens it reads; None for as many as the tokenizer
            says.
        dropped: (pipeline, tokenizer) -> how many tokens at the front of its row the pipeline leaves out of the
            conditioning; None for none.
    """

    tokenizer: str
    encoder: str
    prompt: str
    follows: bool = False
    length: str | None = None
    dropped: Callable[[Any, Any], int] | None = None


@dataclass(frozen=True)
class TextStates:
    """Encoded captions.

    Attributes:
        states: [texts, Nk, C].
        pooled: [texts, Cp] for SDXL and SD3, else None.
    """

    states: Tensor
    pooled: Tensor | None

    def repeated(self, times: int) -> TextStates:
        """A single caption, ``times`` times."""
        pooled = None if self.pooled is None else self.pooled.expand(times, -1)
        return TextStates(self.states.expand(times, -1, -1), pooled)

    def part(self, rows: Tensor) -> TextStates:
        """Some of them."""
        return TextStates(self.states[rows], None if self.pooled is None else self.pooled[rows])

    def gathered(self, accelerator: Any) -> TextStates:
        """Those of all processes, one after the other."""
        pooled = None if self.pooled is None else accelerator.gather(self.pooled.contiguous())
        return TextStates(accelerator.gather(self.states.contiguous()), pooled)


def grid_at(level: int, latent_size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) at ``level`` for a latent of ``latent_size`` = (h, w)."""
    h, w = latent_size
    for _ in range(level):  # a stride-2 convolution rounds an odd side up
        h, w = (h + 1) // 2, (w + 1) // 2
    return h, w
