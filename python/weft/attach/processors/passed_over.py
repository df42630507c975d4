"""An edit within a larger attention, whose other keys and queries it passes over."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.ops import Edit


class PassedOver:
    """An edit with one more key label, whose keys keep their logits: that of keys which the edit knows nothing of.

    Likewise with one more query label, where there are such queries. The tables of an edit may be written into at any
    time, so they are copied at every use.
    """

    def __init__(
        self, edit: Edit, query_labels: Tensor | None, key_labels: Tensor | None, *, queries: bool = False
    ) -> None:
        """``queries``: whether there are queries too that the edit knows nothing of."""
        self._edit, self._query_labels, self._key_labels = edit, query_labels, key_labels
        self._neutral_query, self._neutral_key = edit.labels
        identity = {"alpha": 1.0}
        tables = {
            name: None if table is None else F.pad(table, (0, 1, 0, int(queries)), value=identity.get(name, 0.0))
            for name, table in zip(("alpha", "beta", "gamma", "delta"), edit.tables(), strict=True)
        }
        self._wider = Edit(**tables)

    def edit(self) -> Edit:
        """The edit as its tables are now."""
        for mine, table in zip(self._wider.tables(), self._edit.tables(), strict=True):
            if mine is not None and table is not None:
                mine[:, : self._neutral_query, : self._neutral_key].copy_(table)
        return self._wider

    def query_labels(self, known: int, after: int) -> Tensor:
        """Labels of the ``known`` queries and of as many as come ``after`` them, int32 [B or 1, known + after]."""
        return F.pad(_labels(self._query_labels, known, self._edit), (0, after), value=self._neutral_query)

    def key_labels(self, before: int, known: int, after: int) -> Tensor:
        """Labels of the ``known`` keys, with as many ``before`` and ``after`` them, int32 [B or 1, all of them]."""
        return F.pad(_labels(self._key_labels, known, self._edit), (before, after), value=self._neutral_key)


def _labels(labels: Tensor | None, count: int, edit: Edit) -> Tensor:
    """``labels``, or 0 for all."""
    if labels is not None:
        return labels
    table = next(table for table in edit.tables() if table is not None)
    return torch.zeros(1, count, dtype=torch.int32, device=table.device)
