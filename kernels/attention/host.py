"""What every Triton launcher of ``attention`` makes of a call: arguments by kernel name, choices, the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from weft.kernels.common.device import device_arch
from weft.kernels.common.grids import power_of_two

from . import launch
from .arguments import TABLE_NAMES, Arguments
from .launch_table import Tile

# sizes that change from call to call without a better kernel for some of them
VARYING = [
    *("Nq", "Nk", "M", "LQ", "LK", "stride_alpha_b", "stride_beta_b", "stride_gamma_b", "stride_delta_b"),
    *("stride_query_labels_b", "stride_key_labels_b", "stride_key_padding_b", "stride_readout_b"),
]


@dataclass(frozen=True, eq=False)
class Call:
    """One attention, with what kernels need to know of it.

    Tables, labels and padding that do not lie contiguously are copied: a few values each, where a kernel that knew
    all their strides would pay at every look-up.
    """

    given: Arguments
    # tiles to take instead of the table's, by kernel: what a sweep tries
    forced_tiles: Mapping[str, Tile] = field(default_factory=dict, kw_only=True)

    @property
    def has_tables(self) -> bool:
        return any(table is not None for table in self.given.tables)

    @property
    def has_range(self) -> bool:
        """Whether a table asks for the extremes of a row."""
        return self.given.beta is not None or self.given.gamma is not None

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """B, Nq, Nk, H, D."""
        samples, seqlen_q, heads, head_dim = self.given.q.shape
        return samples, seqlen_q, self.given.k.shape[1], heads, head_dim

    def tile(self, kernel: str) -> Tile:
        _, seqlen_q, seqlen_k, _, head_dim = self.sizes
        if kernel in self.forced_tiles:
            return launch.cut_tile(self.forced_tiles[kernel], seqlen_q, seqlen_k)
        arch = device_arch(self.given.q.device)
        width = launch.value_width(head_dim, self.given.columns)
        return launch.choose_tile(kernel, arch, self.given.q.element_size(), width, seqlen_q, seqlen_k)

    def options(self, kernel: str, tile: Tile) -> dict[str, Any]:
        """The blocks of ``kernel``, how it reads the tables, and how it is compiled."""
        by_query, by_key = self.given.query_labels is not None, self.given.key_labels is not None
        how = launch.choose_lookup(kernel, by_query, by_key, self.given.labels[1])
        return {
            "BLOCK_Q": tile.block_q,
            "BLOCK_K": tile.block_k,
            "FULL_K": self.given.k.shape[1] % tile.block_k == 0,
            "LOOKUP": how,
            "LABELS": self.given.labels[1] if how == "unroll" else 0,
            "num_warps": tile.num_warps,
            "num_stages": launch.choose_stages(tile, how, by_query and by_key),
            # pinned, since its default differs between versions of Triton
            "enable_fp_fusion": False,
        }

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """What all kernels take, by the names they have there."""
        _, seqlen_q, seqlen_k, heads, head_dim = self.sizes
        parts = launch.split_head_dim(head_dim)
        align = self._alignment()
        arguments: dict[str, Any] = {}
        for name in ("q", "k", "v"):
            x: Tensor = getattr(self.given, name)
            arguments[f"{name}_ptr"] = x
            for axis, stride in zip("bnh", x.stride(), strict=False):
                arguments[f"stride_{name}_{axis}"] = stride // align
        for name in (*TABLE_NAMES, "query_labels", "key_labels", "key_padding"):
            x = getattr(self.given, name)
            if x is not None:
                x = (x.view(torch.uint8) if x.dtype == torch.bool else x).contiguous()
            arguments[f"{name}_ptr"] = x
            arguments[f"stride_{name}_b"] = x[0].numel() if x is not None and x.shape[0] > 1 else 0
        # an empty read-out has no pointer worth passing
        readout = self.given.readout if self.given.columns else None
        arguments["readout_ptr"] = readout
        strides = (0, 0, 0) if readout is None else readout.stride()
        arguments["stride_readout_b"] = strides[0] if readout is not None and readout.shape[0] > 1 else 0
        arguments["stride_readout_k"], arguments["stride_readout_m"] = strides[1:]
        return arguments | {
            "H": heads,
            # 1 for most, which Triton compiles into the kernel
            "GROUP": self.given.group,
            "Nq": seqlen_q,
            "Nk": seqlen_k,
            "M": self.given.columns,
            "LQ": self.given.labels[0],
            "LK": self.given.labels[1],
            "scale": self.given.scale,
            "ALIGN": align,
            "D": head_dim,
            "FIRST": parts.first,
            "SECOND": parts.second,
            "BLOCK_M": power_of_two(self.given.columns),
            "PART": self.part,
        }

    @property
    def part(self) -> tl.dtype | None:
        """Into what fp32 tiles are split for tensor cores; None for fp32 arithmetic, where q asks for it.

        The interpreter computes with bf16 as if it were an integer.
        """
        return None if self.given.q.element_size() == 4 or self.given.q.device.type == "cpu" else tl.bfloat16

    def _alignment(self) -> int:
        """Values in 16 bytes if every row of q, k and v begins at a multiple of them, else 1.

        Triton asks of a stride only whether 16 divides it. Where D = 40 that is false, although 16-byte loads fit:
        strides are passed in this unit and multiplied inside, where the compiler sees the factor. A stride that is an
        int64 stays what it is: in this unit it could pass as an int32, and the product inside would overflow.
        """
        values = 16 // self.given.q.element_size()
        strides = (stride for x in (self.given.q, self.given.k, self.given.v) for stride in x.stride()[:3])
        return values if all(stride % values == 0 and stride < 2**31 for stride in strides) else 1
