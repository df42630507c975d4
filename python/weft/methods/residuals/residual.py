"""Personalized Residuals: what a model learnt of a concept, as low-rank factors of the layers that end its blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.attach import BaseModel, ProjectionTerms, base_model, resolve
from weft.methods.files import Artefact
from weft.methods.residuals import lora
from weft.methods.sampling import LATER, OPEN, Sampling

_FILE = Artefact("Residual", "residual", "a residual", instead="for an ordinary LoRA use weft.Residual.from_lora")
# of the record, beside the tensors: attributes of ``Residual``
_RECORD = ("identifier", "class_word", "base_name", "text_width", "is_convolution", "ranks")


@dataclass(frozen=True, eq=False)
class Residual:
    """One concept, learnt by ``weft.train.fit_residual``: W'_i = W_i + up_i down_i in the layers that end blocks.

    They are every ``proj_out`` of a UNet; of Flux the ``attn.to_out.0`` of blocks with two streams, through which a
    block's attention reaches the image, and the ``proj_out`` of blocks with one.

    A file of it is an ordinary LoRA file too: ``pipe.load_lora_weights(path)`` of diffusers draws the concept
    everywhere, as it does without localisation.

    **The paper's letters are swapped**: its A_i is ``up`` here (peft's ``lora_B``), its B_i is ``down`` (``lora_A``).

    Attributes:
        down: Layer -> [r, m], the factor applied first, fp32; its m is larger than that of ``up`` in layers that end
            attention and feed-forward at once.
        up: Layer -> [m, r], fp32.
        identifier: How prompts name the concept before its class word, such as "V*". It is text that the model's
            tokenizer reads unchanged; no token is added and no embedding trained, so prompts work in every
            pipeline. A rare word ("sks") stays closest to the paper, which starts V* from a rare token.
        class_word: What the concept is one of, such as "dog".
        base_name: The model it was trained on.
        text_width: Channels of that model's conditioning.
        is_convolution: Whether its layers are 1x1 convolutions (SD1.x) or linear (SD2, SDXL, Flux).
        sampling: How pictures are best drawn with it.
        part: The denoiser's name in a pipeline, "unet" or "transformer", as LoRA files have it.

    Source:
        Ham et al. 2024, arXiv:2405.12978, section 3.
    """

    down: Mapping[str, Tensor] = field(repr=False)
    up: Mapping[str, Tensor] = field(repr=False)
    identifier: str
    class_word: str
    base_name: str
    text_width: int
    is_convolution: bool
    sampling: Sampling = OPEN
    part: str = "unet"

    def __post_init__(self) -> None:
        if not self.down or self.down.keys() != self.up.keys():
            raise ValueError("Residual: `down` and `up` must be factors of the same layers, at least of one")
        for name, down in self.down.items():
            up = self.up[name]
            if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
                raise ValueError(
                    f"Residual: factors must be `down` [r, m] and `up` [m, r]; got {list(down.shape)} and "
                    f"{list(up.shape)} for {name}"
                )
            if not (down.isfinite().all() and up.isfinite().all()):
                raise ValueError(f"Residual: factors must be finite; those of {name} are not")

    @property
    def phrase(self) -> str:
        """How a prompt names the concept: "V* dog"."""
        return f"{self.identifier} {self.class_word}"

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of every layer."""
        return {name: len(down) for name, down in self.down.items()}

    @property
    def widths(self) -> dict[str, int]:
        """Channels out of every layer."""
        return {name: len(up) for name, up in self.up.items()}

    @property
    def in_widths(self) -> dict[str, int]:
        """Channels in of every layer."""
        return {name: down.shape[1] for name, down in self.down.items()}

    def check_fits(self, pipe_or_model: Any) -> BaseModel:
        """Refuse a pipeline, model, or description of one that this was not made for; gives its description.

        Raises:
            TypeError: Not a pipeline or model.
            ValueError: Another architecture or other widths.
        """
        base = pipe_or_model if isinstance(pipe_or_model, BaseModel) else base_model(pipe_or_model)
        widths = {name: (width, self.widths[name]) for name, width in self.in_widths.items()}
        mismatch = base.mismatch(widths, self.text_width, self.is_convolution)
        if mismatch is not None:
            raise ValueError(
                f"Residual: {self.phrase!r} was trained on {self.base_name!r} and does not fit {base.name!r}: "
                f"{mismatch}; use the model it was trained on, or a finetune of that"
            )
        return base

    def terms(
        self,
        strength: float = 1.0,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        backend: str | None = None,
    ) -> dict[str, ProjectionTerms]:
        """What every projection adds for this concept alone, everywhere: layer -> terms."""
        wide = torch.promote_types(dtype, torch.float32)
        gate = None if strength == 1.0 else torch.tensor([strength], dtype=wide, device=device)
        return {
            name: ProjectionTerms(down.to(device, dtype), self.up[name].to(device, dtype), gate=gate, backend=backend)
            for name, down in self.down.items()
        }

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a safetensors file, whole or not at all. diffusers and peft read it as a LoRA.

        Args:
            path: The file; an existing one is replaced.
            dtype: What factors are stored as; float16 and bfloat16 halve the file.

        Raises:
            OSError: It cannot be written.
        """
        tensors = lora.diffusers_layout(self.down, self.up, self.is_convolution, self.part)
        record = {name: getattr(self, name) for name in _RECORD} | self.sampling.record()
        _FILE.write(
            Path(path), tensors, record, {lora.METADATA: lora.diffusers_metadata(self.ranks, self.part)}, dtype
        )

    @classmethod
    def load(cls, path: str | Path) -> Residual:
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is cut short, damaged, or not a residual of weft.
        """
        tensors, record = _FILE.read(Path(path), _RECORD, LATER)
        record["sampling"] = Sampling.of(record["sampling"])
        down, up, part = lora.from_diffusers_layout(tensors)
        ranks = record.pop("ranks")
        residual = cls(down, up, part=part, **record)
        if residual.ranks != ranks:
            raise ValueError(f"Residual: {path} is damaged: its tensors have other ranks than it says")
        return residual

    def save_lora(self, path: str | Path, layout: str = "kohya", dtype: torch.dtype = torch.float32) -> None:
        """Write an ordinary LoRA file, with nothing of weft in it.

        Args:
            layout: "kohya", for sd-scripts, ComfyUI and other web interfaces (diffusers reads it too), or "diffusers".

        Raises:
            ValueError: Another layout.
            OSError: It cannot be written.
        """
        if layout == "kohya":
            tensors, metadata = lora.kohya_layout(self.down, self.up, self.is_convolution), {}
        elif layout == "diffusers":
            tensors = lora.diffusers_layout(self.down, self.up, self.is_convolution, self.part)
            metadata = {lora.METADATA: lora.diffusers_metadata(self.ranks, self.part)}
        else:
            raise ValueError(f"Residual.save_lora: `layout` must be 'kohya' or 'diffusers'; got {layout!r}")
        _FILE.write(Path(path), tensors, None, metadata, dtype)

    @classmethod
    def from_lora(cls, path: str | Path, pipe_or_model: Any, class_word: str, identifier: str = "V*") -> Residual:
        """Read an ordinary LoRA file of diffusers, peft or kohya-style trainers; alpha / rank goes into ``up``.

        Args:
            pipe_or_model: The model it was trained on; its layers are looked up there.
            class_word, identifier: How its captions named the concept.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is cut short or no LoRA, changes other layers than those, or does not fit the model.
        """
        tensors, metadata = _FILE.read_tensors(Path(path))
        host = resolve(pipe_or_model)
        base, part = base_model(host), host.family.part
        if not base.projections:
            raise ValueError(f"Residual.from_lora: {type(host.model).__name__} has no layers in which residuals sit")
        down, up = lora.from_any_layout(tensors, metadata, base.projections, str(path), part)
        is_convolution = base.projections[0].is_convolution
        residual = cls(down, up, identifier, class_word, base.name, base.text_width, is_convolution, part=part)
        residual.check_fits(pipe_or_model)
        return residual
