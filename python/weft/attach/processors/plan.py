"""What one layer does in a pass: the requests of all controls, joined into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.attach.control import Control
from weft.attach.processors.passed_over import PassedOver
from weft.attach.records import LayerInfo, LayerRequest


@dataclass(frozen=True, eq=False)
class Plan:
    """What one layer does in a pass.

    Attributes:
        request: The joined request; its read-out covers the text and what is added to it.
        sources: The requests it was joined from, with their controls.
        columns: Per source the columns of ``request.readout`` that are its own; None when it reads nothing.
        is_read: Whether maps are kept for ``Control.read``: not where every source has a sink for them.
        passed_over: The edit beside keys or queries that it knows nothing of; None where there is not both.
    """

    request: LayerRequest
    sources: tuple[tuple[Control, LayerRequest], ...]
    columns: tuple[slice | None, ...]
    is_read: bool
    passed_over: PassedOver | None = None

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
            mine[0] is theirs[0] and mine[1] is theirs[1] for mine, theirs in zip(self.sources, sources, strict=True)
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
    passed_over = None
    if editor.edit is not None and (extra is not None or layer.is_joint):
        passed_over = PassedOver(editor.edit, editor.query_labels, editor.key_labels, queries=layer.is_joint)
    is_read = any(request.readout is not None and request.sink is None for _, request in sources)
    return Plan(joined, tuple(sources), tuple(columns), is_read, passed_over)


def _only(sources: Sequence[tuple[Control, LayerRequest]], does: str, layer: LayerInfo) -> LayerRequest:
    """The request of the one control that ``does`` something; an empty one where there is none."""
    if len(sources) > 1:
        names = " and ".join(type(control).__name__ for control, _ in sources)
        raise ValueError(
            f"attach: one control at most may {does} a layer at a step; {names} both {does} {layer.name}; "
            "give them different layers or steps"
        )
    return sources[0][1] if sources else LayerRequest()
