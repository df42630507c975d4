"""What every Triton launcher of ``lowrank_linear`` makes of a call: arguments by kernel name, choices, the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from weft.kernels.common.capture import kept_on_device
from weft.kernels.common.device import device_arch
from weft.kernels.common.grids import power_of_two
from weft.kernels.common.product_tiles import Tile

from . import launch
from .arguments import Arguments


@dataclass(frozen=True, eq=False)
class Call:
    """One call, with what kernels need to know of it."""

    given: Arguments
    # instead of what launch.py chooses: what sweeps try
    forced_form: str | None = field(default=None, kw_only=True)

    @property
    def rank(self) -> int:
        """R, 0 without concepts."""
        return 0 if self.given.down is None else self.given.down.shape[0]

    @property
    def rows(self) -> int:
        """B * N."""
        return self.given.x.shape[0] * self.given.x.shape[1]

    @cached_property
    def arch(self) -> int:
        return device_arch(self.given.x.device)

    def tile(self, kernel: str, rows: int, columns: int) -> Tile:
        return launch.choose_tile(kernel, self.arch, self.given.x.element_size(), rows, columns)

    @cached_property
    def form(self) -> str:
        """ "recompute" or "append", "alone" without concepts."""
        if not self.rank:
            return "alone"
        if self.forced_form is not None:
            return self.forced_form
        block_n = self.tile("project", self.rows, self.given.width_out).block_n
        if self.given.weight is None:
            # with no base product to repeat it beside, x A^T is made once for several tiles
            return "recompute" if power_of_two(self.rank) <= launch.MOST_RECOMPUTED_RANKS else "append"
        sizes = (self.rows, self.given.x.shape[2], self.given.width_out, self.rank)
        return launch.choose_form(self.arch, self.given.x.element_size(), *sizes, block_n)

    def gate_arguments(self) -> dict[str, Any]:
        """The gate and which concept each rank belongs to, by the names that kernels have for them."""
        gate = self.given.gate if self.rank else None
        if gate is None:
            return {"gate_ptr": None, "concept_ptr": None} | dict.fromkeys(
                ("stride_gate_b", "stride_gate_n", "stride_gate_k"), 0
            )
        shared = [gate.stride(axis) if gate.shape[axis] > 1 else 0 for axis in (0, 1)]
        return {
            "gate_ptr": gate,
            "concept_ptr": concept_of_rank(self.given.ranks, gate.device),
            "stride_gate_b": shared[0],
            "stride_gate_n": shared[1],
            "stride_gate_k": gate.stride(2),
        }


@kept_on_device
def concept_of_rank(ranks: tuple[int, ...], device: torch.device) -> Tensor:
    """Number of the concept that each of R ranks belongs to, [R] int32."""
    concepts = torch.arange(len(ranks), dtype=torch.int32)
    return concepts.repeat_interleave(torch.tensor(ranks)).to(device)
