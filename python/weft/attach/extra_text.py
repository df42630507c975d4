"""Further conditioning that single layers see after the text, and its keys and values in a cross-attention.

Keys carry no position, so tokens at the end are the same as tokens anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from weft.attach.processors.text_cache import TextCache, project


@dataclass(frozen=True, eq=False)
class ExtraText:
    """Tokens for an attention to the text, one set of several at a time. The same for every row of the batch.

    In a cross-attention keys and values of all sets are computed once, where nothing asks for gradients; in a joint
    attention they depend on the timestep. Another set is chosen by writing into ``row``, which compiles nothing anew.
    Gradients reach ``bank``.

    Attributes:
        bank: [T, m, C], the sets, in the dtype of the conditioning.
        row: int64 [1] on the same device, the set in use.
        space: "conditioning" where the model treats them as it does its text from the start, "block" where they are
            as wide as the blocks themselves; a joint attention tells the two apart.
    """

    bank: Tensor
    row: Tensor
    space: Literal["conditioning", "block"] = "conditioning"

    def project(self, layer: str, attn: Any, fused: bool, cache: TextCache | None) -> tuple[Tensor, Tensor]:
        """Keys and values of the set in use, each [1, m, H * D]; computed every time without a cache."""
        if cache is None:
            return project(attn, self.bank.index_select(0, self.row), fused)
        key, value = cache.project(f"{layer} extra", attn, self.bank, fused)
        return key.index_select(0, self.row), value.index_select(0, self.row)


def append(mine: Tensor, extra: Tensor) -> Tensor:
    """Keys or values [B, Nk, H * D] with those of ``extra`` [1, m, H * D] behind them."""
    return torch.cat([mine, extra.expand(len(mine), -1, -1)], 1)
