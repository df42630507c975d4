"""Further conditioning that single layers see after the text: its keys and values, and how edits pass it over.

Keys of a cross-attention carry no position, so tokens at the end are the same as tokens anywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.attach.text_cache import TextCache, project
from weft.ops import Edit


@dataclass(frozen=True, eq=False)
class ExtraText:
    """Tokens for a cross-attention, one set of several at a time. The same for every row of the batch.

    Keys and values of all sets are computed once, where nothing asks for gradients. Another set is chosen by writing
    into ``row``, which compiles nothing anew.

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


class PassedOver:
    """An edit with one more key label, whose keys keep their logits: that of tokens which the edit knows nothing of.

    The tables of an edit may be written into at any time, so they are copied at every use.
    """

    def __init__(self, edit: Edit, key_labels: Tensor | None, tokens: int) -> None:
        self._edit, self._labels, self._tokens = edit, key_labels, tokens
        self._neutral = edit.labels[1]
        identity = {"alpha": 1.0}
        tables = {
            name: None if table is None else F.pad(table, (0, 1), value=identity.get(name, 0.0))
            for name, table in zip(("alpha", "beta", "gamma", "delta"), edit.tables(), strict=True)
        }
        self._wider = Edit(**tables)

    def edit(self) -> Edit:
        """The edit as its tables are now."""
        for mine, table in zip(self._wider.tables(), self._edit.tables(), strict=True):
            if mine is not None and table is not None:
                mine[..., :-1].copy_(table)
        return self._wider

    def key_labels(self, key: Tensor) -> Tensor:
        """Labels of all of ``key`` [B, Nk + m, ...], int32 [B or 1, Nk + m]; 0 where the edit has none."""
        labels = self._labels
        if labels is None:
            labels = torch.zeros(1, key.shape[1] - self._tokens, dtype=torch.int32, device=key.device)
        return F.pad(labels, (0, self._tokens), value=self._neutral)
