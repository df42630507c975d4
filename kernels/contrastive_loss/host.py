"""What every Triton launcher of ``contrastive_loss`` makes of a segment: arguments by kernel name, tiles, device."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from weft.kernels.common.device import device_arch
from weft.kernels.common.product_tiles import Tile

from . import launch
from .arguments import Segment


class Call(NamedTuple):
    """Rows and one segment, whose ids are contiguous, with what kernels need to know of them."""

    rows: Tensor
    segment: Segment

    @property
    def sizes(self) -> tuple[int, int, int]:
        """R, K, D."""
        return self.rows.shape[0], self.segment.columns.shape[0], self.rows.shape[1]

    def tile(self, kernel: str, rows: int, columns: int) -> Tile:
        return launch.choose_tile(kernel, device_arch(self.rows.device), self.rows.element_size(), rows, columns)

    def arguments(self, tile: Tile) -> dict[str, Any]:
        """What a kernel that makes logits takes, by the names that kernels have for it."""
        rows, columns, width = self.sizes
        segment = self.segment
        return {
            "rows_ptr": self.rows,
            "columns_ptr": segment.columns,
            "row_ids_ptr": segment.row_ids,
            "column_ids_ptr": segment.column_ids,
            "temperature_ptr": segment.temperature,
            "stride_rows_r": self.rows.stride(0),
            "stride_rows_d": self.rows.stride(1),
            "stride_columns_k": segment.columns.stride(0),
            "stride_columns_d": segment.columns.stride(1),
            "R": rows,
            "K": columns,
            "D": width,
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "BLOCK_K": tile.block_k,
            "EXCLUDES": segment.excludes,
            "HAS_CLASSES": segment.has_classes,
            "FULL_D": width % tile.block_k == 0,
            **tile.options,
        }
