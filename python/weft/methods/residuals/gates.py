"""The gates of concepts while images are made: tensors that keep their place, and what writes into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weft.attach import Generation
from weft.ops import regions


class Workspace:
    """Tensors that outlive a generation: what was compiled or captured with them finds them where they were.

    Those that two generations in a row did without are let go, or pictures of many sizes would fill the memory.
    """

    def __init__(self) -> None:
        self._tensors: dict[Any, Tensor] = {}
        self._used: set[Any] = set()
        self._used_before: set[Any] = set()

    def begin(self) -> None:
        """A generation begins."""
        kept = self._used | self._used_before
        self._tensors = {key: tensor for key, tensor in self._tensors.items() if key in kept}
        self._used, self._used_before = set(), self._used

    def tensor(self, name: str, shape: tuple[int, ...], generation: Generation) -> Tensor:
        """The tensor of this name and shape, in the generation's dtype; zeros the first time."""
        key = (name, shape, generation.dtype, generation.device)
        self._used.add(key)
        if key not in self._tensors:
            # one made in inference mode could not be written into outside of it
            with torch.inference_mode(False):
                self._tensors[key] = torch.zeros(shape, dtype=generation.dtype, device=generation.device)
        return self._tensors[key]

    def clear(self) -> None:
        """Forget all tensors."""
        self._tensors, self._used, self._used_before = {}, set(), set()


@dataclass(frozen=True, eq=False)
class AttentionGate:
    """Turns the read-outs of one block's cross-attention into the gate of the projection at its end.

    Attributes:
        gate: [B, N, K], for all rows of the denoiser's batch.
        strengths: [B, K]; a concept with 0 is not there.
        rows: Those of the batch that carry the prompt, one an image; the others get their image's mask.
        rule, overlap: Of ``regions.concept_gate``.
        total: Sum of the maps of several layers, [images, N, K]; None where one layer feeds the block. A sum will do
            for a mean: no rule asks how large maps are.
    """

    gate: Tensor
    strengths: Tensor
    rows: slice
    rule: str | float
    overlap: str
    total: Tensor | None

    def sink(self, first: bool, last: bool) -> Sink:
        """What takes the maps of a layer, the ``first`` or ``last`` of the block or neither."""
        return Sink(self, first, last)


@dataclass(frozen=True, eq=False)
class Sink:
    """Takes the maps [B, N, K] of one layer within the pass, for an ``AttentionGate``."""

    to: AttentionGate
    first: bool
    last: bool

    def __call__(self, maps: Tensor) -> None:
        to, maps = self.to, maps[self.to.rows]
        if to.total is not None:
            if self.first:
                to.total.copy_(maps)
            else:
                to.total.add_(maps)
            maps = to.total
        if self.last:
            regions.concept_gate(maps, to.strengths, to.rule, overlap=to.overlap, out=to.gate)
