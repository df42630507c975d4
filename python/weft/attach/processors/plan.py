"""What one layer does in a pass: the requests of all controls, joined into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.attach.control import Control
from weft.attach.records import LayerInfo, LayerRequest
from weft.ops import Edit


class WiderEdit:
    """An edit within a larger attention: with one more label, for keys that are not its own and keep their logits.

    Likewise with one more query label, where there are queries that are not its own. The tables of an edit may be
    written into at any time, so they are copied at every use.
    """

    def __init__(
        self, edit: Edit, query_labels: Tensor | None, key_labels: Tensor | None, *, queries: bool = False
    ) -> None:
        """``queries``: whether there are queries, too, that are not the edit's own."""
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
        for wider, table in zip(self._wider.tables(), self._edit.tables(), strict=True):
            if wider is not None and table is not None:
                wider[:, : self._neutral_query, : self._neutral_key].copy_(table)
        return self._wider

    def query_labels(self, before: int, known: int, after: int) -> Tensor:
        """Labels of the ``known`` queries, with as many ``before`` and ``after`` them, int32 [B or 1, all of them]."""
        return F.pad(_labels(self._query_labels, known, self._edit), (before, after), value=self._neutral_query)

    def key_labels(self, before: int, known: int, after: int) -> Tensor:
        """Labels of the ``known`` keys, with as many ``before`` and ``after`` them, int32 [B or 1, all of them]."""
        return F.pad(_labels(self._key_labels, known, self._edit), (before, after), value=self._neutral_key)


@dataclass(frozen=True, eq=False)
class Plan:
    """What one layer does in a pass.

    Attributes:
        request: The joined request; its read-out covers the text and what is added to it.
        sources: The requests it was joined from, with their controls.
        columns: Per source the columns of ``request.readout`` that are its own; None when it reads nothing.
        is_read: Whether maps are kept for ``Control.read_maps``: not where every source has a sink for them.
        wider_edit: The edit beside keys or queries that are not its own; None where there is not both.
    """

    request: LayerRequest
    sources: tuple[tuple[Control, LayerRequest], ...]
    columns: tuple[slice | None, ...]
    is_read: bool
    wider_edit: WiderEdit | None = None

    @property
    def needs_attention(self) -> bool:
        """Whether attention itself is to do anything, not merely to see other keys."""
        return self.request.edit is not None or self.request.readout is not None

    @property
    def tokens(self) -> int:
        """How many tokens are added to the text."""
        return 0 if self.request.extra is None else self.request.extra.bank.shape[1]

    def joins(self, sources: Sequence[tuple[Control, LayerRequest]]) -> bool:
        """Whether it is the plan of exactly these requests."""
        return len(sources) == len(self.sources) and all(
            known[0] is given[0] and known[1] is given[1] for known, given in zip(self.sources, sources, strict=True)
        )

    def sink(self, maps: Tensor) -> None:
        """Hand ``maps`` [B, Nq, M] to the sources that take them within the pass."""
        for (_, source), columns in zip(self.sources, self.columns, strict=True):
            if source.sink is not None and columns is not None:
                source.sink(maps[..., columns])


def join(layer: LayerInfo, sources: Sequence[tuple[Control, LayerRequest]]) -> Plan:
    """Make one request of several: at most one edit, at most one with further tokens, read-outs side by side.

    Raises:
        ValueError: Two controls edit this layer at once or add tokens to it, or one adds tokens to self-attention.
    """
    editor = _only([source for source in sources if source[1].edit is not None], "edit", layer)
    extra = _only([source for source in sources if source[1].extra is not None], "add tokens to", layer).extra
    if extra is not None and not layer.is_cross:
        raise ValueError(f"attach: tokens can be added to cross-attention alone; {layer.name} sees no text")
    if extra is not None and not layer.takes_tokens:
        raise ValueError(f"attach: weft adds no tokens to the text of {layer.name}, whose model gives them positions")
    columns: list[slice | None] = []
    readouts: list[Tensor] = []
    start = 0
    for _, request in sources:
        if request.readout is None:
            columns.append(None)
            continue
        columns.append(slice(start, start + request.readout.shape[2]))
        readouts.append(request.readout)
        start += request.readout.shape[2]
    batch = max((readout.shape[0] for readout in readouts), default=1)
    readout = torch.cat([r.expand(batch, -1, -1) for r in readouts], dim=2) if len(readouts) > 1 else None
    readout = readouts[0] if len(readouts) == 1 else readout
    if extra is not None and readout is not None:
        readout = F.pad(readout, (0, 0, 0, extra.bank.shape[1]))
    joined = LayerRequest(
        edit=editor.edit,
        query_labels=editor.query_labels,
        key_labels=editor.key_labels,
        readout=readout,
        extra=extra,
    )
    wider_edit = None
    if editor.edit is not None and (extra is not None or layer.is_joint):
        wider_edit = WiderEdit(editor.edit, editor.query_labels, editor.key_labels, queries=layer.is_joint)
    is_read = any(request.readout is not None and request.sink is None for _, request in sources)
    return Plan(joined, tuple(sources), tuple(columns), is_read, wider_edit)


def _only(sources: Sequence[tuple[Control, LayerRequest]], does: str, layer: LayerInfo) -> LayerRequest:
    """The request of the one control that ``does`` something; an empty one where there is none."""
    if len(sources) > 1:
        names = " and ".join(type(control).__name__ for control, _ in sources)
        raise ValueError(
            f"attach: one control at most may {does} a layer at a step; {names} both {does} {layer.name}; "
            "give them different layers or steps"
        )
    return sources[0][1] if sources else LayerRequest()


def _labels(labels: Tensor | None, count: int, edit: Edit) -> Tensor:
    """``labels``, or 0 for all."""
    if labels is not None:
        return labels
    table = next(table for table in edit.tables() if table is not None)
    return torch.zeros(1, count, dtype=torch.int32, device=table.device)
