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
    """An edit within a larger attention: with one more label, for keys that it does not speak of.

    Likewise with one more query label, where there are queries that it does not speak of. Such logits stay what they
    are. The tables of an edit may be written into at any time, so they are copied at every use.
    """

    def __init__(self, request: LayerRequest, *, queries: bool = False) -> None:
        """``queries``: whether there may be queries, too, that the edit does not speak of."""
        assert request.edit is not None
        self._request, self._edit = request, request.edit
        self._neutral_query, self._neutral_key = self._edit.labels
        identity = {"alpha": 1.0}
        tables = {
            name: None if table is None else F.pad(table, (0, 1, 0, int(queries)), value=identity.get(name, 0.0))
            for name, table in zip(("alpha", "beta", "gamma", "delta"), self._edit.tables(), strict=True)
        }
        self._wider = Edit(**tables)

    def edit(self) -> Edit:
        """The edit as its tables are now."""
        for wider, table in zip(self._wider.tables(), self._edit.tables(), strict=True):
            if wider is not None and table is not None:
                wider[:, : self._neutral_query, : self._neutral_key].copy_(table)
        return self._wider

    def query_labels(self, total: int, image: slice, text: slice) -> Tensor:
        """Labels of ``total`` queries, int32 [B or 1, total], of which these are the image and the text."""
        pixels = self._labels(self._request.query_labels, image)
        return _placed(total, self._neutral_query, (image, pixels), (text, self._request.text_query_labels))

    def key_labels(self, total: int, image: slice | None, text: slice) -> Tensor:
        """Labels of ``total`` keys, int32 [B or 1, total]; ``image`` is None where no pixel is among them."""
        words = (text, self._labels(self._request.key_labels, text))
        pixels = () if image is None else ((image, self._request.pixel_key_labels),)
        return _placed(total, self._neutral_key, words, *pixels)

    def _labels(self, labels: Tensor | None, place: slice) -> Tensor:
        """``labels``, or 0 for all of ``place``."""
        if labels is not None:
            return labels
        table = next(table for table in self._edit.tables() if table is not None)
        return torch.zeros(1, place.stop - place.start, dtype=torch.int32, device=table.device)


def _placed(total: int, neutral: int, *parts: tuple[slice, Tensor | None]) -> Tensor:
    """Labels at their places among ``total``, where all others are ``neutral``."""
    given = [(place, labels) for place, labels in parts if labels is not None]
    rows = max(labels.shape[0] for _, labels in given)
    placed = given[0][1].new_full((rows, total), neutral)
    for place, labels in given:
        placed[:, place] = labels
    return placed


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
        ValueError: Two controls edit this layer at once or add tokens to it, one adds tokens to self-attention, or
            gives labels of a joint attention to another.
    """
    editor = _only([source for source in sources if source[1].edit is not None], "edit", layer)
    if not layer.is_joint and (editor.pixel_key_labels is not None or editor.text_query_labels is not None):
        raise ValueError(
            "attach: `pixel_key_labels` and `text_query_labels` are of a joint attention, and "
            f"{layer.name} is none; leave them out"
        )
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
        pixel_key_labels=editor.pixel_key_labels,
        text_query_labels=editor.text_query_labels,
        readout=readout,
        extra=extra,
    )
    wider_edit = None
    if editor.edit is not None and (extra is not None or layer.is_joint):
        wider_edit = WiderEdit(editor, queries=layer.is_joint)
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
