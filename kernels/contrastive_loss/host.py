"""What every Triton launcher of ``contrastive_loss`` makes of a segment: arguments by kernel name, tiles, device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from weft.kernels.common.device import device_arch
from weft.kernels.common.product_tiles import Tile

from . import launch


@dataclass(frozen=True, eq=False)
class Call:
    """Rows and one segment, as ``Segment`` of the definition describes it, with what kernels need to know of them."""

    rows: Tensor
    columns: Tensor
    temperature: Tensor
    row_ids: Tensor
    column_ids: Tensor
    excludes: bool
    has_classes: bool
    symmetric: bool

    @property
    def sizes(self) -> tuple[int, int, int]:
        """R, K, D."""
        return self.rows.shape[0], self.columns.shape[0], self.rows.shape[1]

    def tile(self, kernel: str, rows: int, columns: int) -> Tile:
        return launch.choose_tile(kernel, device_arch(self.rows.device), self.rows.element_size(), rows, columns)

    def arguments(self, tile: Tile) -> dict[str, Any]:
        """What a kernel that makes logits takes, by the names that kernels have for it."""
        rows, columns, width = self.sizes
        return {
            "rows_ptr": self.rows,
            "columns_ptr": self.columns,
            "row_ids_ptr": self.row_ids,
            "column_ids_ptr": self.column_ids,
            "temperature_ptr": self.temperature,
            "stride_rows_r": self.rows.stride(0),
            "stride_rows_d": self.rows.stride(1),
            "stride_columns_k": self.columns.stride(0),
            "stride_columns_d": self.columns.stride(1),
            "R": rows,
            "K": columns,
            "D": width,
            "BLOCK_M": tile.block_m,
            "BLOCK_N": tile.block_n,
            "BLOCK_K": tile.block_k,
            "EXCLUDES": self.excludes,
            "HAS_CLASSES": self.has_classes,
            "FULL_D": width % tile.block_k == 0,
            **tile.options,
        }
