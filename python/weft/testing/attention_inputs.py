"""Random inputs of ``attention``, as hosts really lay them out: a case says what, the maker draws it from a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from weft.kernels.attention.arguments import TABLE_NAMES, Arguments

LAYOUTS = ("contiguous", "fused", "head_major", "sequence_major", "sliced", "expanded", "mixed")
READOUTS = ("none", "one_hot", "dense", "ones", "zero")
# what uninitialised memory may hold; the last overflows 16 bits, and a logit in 32
HOSTILE = (float("nan"), float("inf"), -float("inf"), 1e30)


@dataclass(frozen=True)
class AttentionCase:
    """One attention to draw.

    Attributes:
        samples, seqlen_q, seqlen_k, heads, head_dim: B, Nq, Nk, H, D.
        group: Heads of q that read one head of k and v; it divides H.
        dtype: Of q, k and v; tables and read-out are float32, or float64 beside float64.
        layout: How q, k and v lie in memory, one of ``LAYOUTS``:
            "contiguous"      each [B, N, H, D]
            "fused"           views of one projection: q, k, v of [B, N, 3HD] where Nq = Nk, else k, v of [B, Nk, 2HD]
            "head_major"      stored [B, H, N, D], as after ``transpose(1, 2)`` of a head split
            "sequence_major"  stored [N, B, H, D]
            "sliced"          rows of D inside wider rows whose other values are NaN; rows begin at odd addresses
            "expanded"        k and v of one sample, expanded over the batch with stride 0
            "mixed"           q contiguous, k as "head_major", v as "sequence_major": no two have the same strides
        tables: Which tables there are; () for no edit.
        query_labels: Lq, number of query labels; None for no label tensor.
        key_labels: Lk, number of key labels; "own" for one a key; None for no label tensor.
        label_dtype: Integer dtype of the labels.
        removed: Share of ``delta`` that is -inf.
        masked_label: Whether ``delta`` is -inf everywhere at query label 0, so that its rows have no valid key.
        readout: One of ``READOUTS``.
        columns: M.
        padding: Share of keys that are padding; 0 for no padding tensor.
        shared: Names among "tables", "labels", "readout", "padding" that have batch 1 instead of B.
        spread: Standard deviation of the raw logits.
        hostile: Whether k, v and the read-out hold NaN, infinities and huge values at keys that no row may see, as
            uninitialised memory does.
    """

    samples: int = 2
    seqlen_q: int = 64
    seqlen_k: int = 77
    heads: int = 4
    head_dim: int = 40
    group: int = 1
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    tables: tuple[str, ...] = ()
    query_labels: int | None = 4
    key_labels: int | str | None = "own"
    label_dtype: torch.dtype = torch.int32
    removed: float = 0.0
    masked_label: bool = False
    readout: str = "none"
    columns: int = 8
    padding: float = 0.0
    shared: tuple[str, ...] = ()
    spread: float = 1.0
    hostile: bool = False

    def batch_of(self, name: str) -> int:
        """First axis of the tensors of this kind."""
        return 1 if name in self.shared else self.samples


@dataclass(frozen=True, eq=False)
class AttentionInputs:
    """The tensors of one call, named and ordered as in ``Arguments``."""

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    alpha: Tensor | None = None
    beta: Tensor | None = None
    gamma: Tensor | None = None
    delta: Tensor | None = None
    readout: Tensor | None = None
    query_labels: Tensor | None = None
    key_labels: Tensor | None = None
    key_padding: Tensor | None = None

    def arguments(self) -> Arguments:
        """As backends take them."""
        return Arguments(*(getattr(self, field.name) for field in fields(self)))

    def tables(self) -> dict[str, Tensor]:
        """The tables that are there."""
        return {name: table for name in TABLE_NAMES if (table := getattr(self, name)) is not None}

    def floats(self) -> dict[str, Tensor]:
        """Every input that can have a gradient."""
        return {name: x for name, x in self._tensors().items() if x.is_floating_point()}

    def mapped(self, change: Callable[[Tensor], Tensor]) -> AttentionInputs:
        """The same call with every tensor changed."""
        changed: dict[str, Any] = {name: change(x) for name, x in self._tensors().items()}
        return replace(self, **changed)

    def in_float64(self) -> AttentionInputs:
        """The same values in float64, detached; labels and padding as they are."""
        return self.mapped(lambda x: x.detach().double() if x.is_floating_point() else x)

    def valid(self) -> Tensor:
        """Which keys each row may see, bool [B, Nq, Nk]."""
        samples, seqlen_q, seqlen_k = self.q.shape[0], self.q.shape[1], self.k.shape[1]
        valid = torch.ones(samples, seqlen_q, seqlen_k, dtype=torch.bool, device=self.q.device)
        if self.key_padding is not None:
            valid &= ~self.key_padding[:, None]
        if self.delta is not None:
            r = torch.zeros(1, seqlen_q) if self.query_labels is None else self.query_labels
            c = torch.zeros(1, seqlen_k) if self.key_labels is None else self.key_labels
            rows = (x.to(self.q.device, torch.long).expand(samples, -1) for x in (r, c))
            for b, (of_rows, of_keys) in enumerate(zip(*rows, strict=True)):
                removed = self.delta[b % self.delta.shape[0]].isneginf()
                valid[b] &= ~removed[of_rows][:, of_keys]
        return valid

    def absent_keys(self) -> Tensor:
        """The keys that no row of their sample may see, bool [B, Nk]."""
        return ~self.valid().any(1)

    def cleaned(self) -> AttentionInputs:
        """The same call with zeros in k, v and the read-out at absent keys.

        What an oracle computes from it is the truth about a call that holds anything there. Gradients reach the
        leaves of this call.
        """
        absent = self.absent_keys()

        def clean(x: Tensor) -> Tensor:
            # a read-out that samples share has a row of zeros only where none of them may see it
            where = absent.all(0, keepdim=True) if x.shape[0] == 1 else absent
            return x.masked_fill(where.reshape(*where.shape, *[1] * (x.ndim - 2)), 0.0)

        readout = None if self.readout is None else clean(self.readout)
        return replace(self, k=clean(self.k), v=clean(self.v), readout=readout)

    def with_gradients(self) -> AttentionInputs:
        """The same values and strides as leaves that ask for a gradient."""
        return self.mapped(lambda x: x.detach().requires_grad_() if x.is_floating_point() else x)

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: x for name, x in values.items() if isinstance(x, Tensor)}


def make_attention_inputs(case: AttentionCase, seed: int = 0, device: str = "cpu") -> AttentionInputs:
    """Draw the tensors of ``case``. The same seed gives the same values on every device."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.float64 if case.dtype == torch.float64 else torch.float32
    q, k, v = (x.to(case.dtype) for x in _draw_qkv(case, generator))
    rest = {**_draw_edit(case, generator, wide), "readout": _draw_readout(case, generator, wide)}
    if case.padding:
        rest["key_padding"] = torch.rand(case.batch_of("padding"), case.seqlen_k, generator=generator) < case.padding
    drawn = AttentionInputs(q, k, v, case.head_dim**-0.5, **rest)
    if case.hostile:
        drawn = _poison(drawn, case, generator)
    drawn = drawn.mapped(lambda x: x.to(device))
    q, k, v = _LAYOUT_MAKERS[case.layout](drawn.q, drawn.k, drawn.v)
    return replace(drawn, q=q, k=k, v=v)


def _poison(inputs: AttentionInputs, case: AttentionCase, generator: torch.Generator) -> AttentionInputs:
    """Put ``HOSTILE`` values into k, v and the read-out at absent keys; where samples share storage, at all's."""
    absent = inputs.absent_keys()
    for_all = absent.all(0, keepdim=True)

    def poison(x: Tensor, where: Tensor) -> Tensor:
        values = torch.tensor(HOSTILE)[torch.randint(len(HOSTILE), x.shape, generator=generator)].to(x.dtype)
        return torch.where(where.reshape(*where.shape, *[1] * (x.ndim - 2)), values, x)

    of_storage = for_all if case.layout == "expanded" else absent
    readout = inputs.readout
    if readout is not None:
        readout = poison(readout, for_all if readout.shape[0] == 1 else absent)
    return replace(inputs, k=poison(inputs.k, of_storage), v=poison(inputs.v, of_storage), readout=readout)


def poison_for_some_rows(inputs: AttentionInputs, names: tuple[str, ...]) -> tuple[AttentionInputs, Tensor]:
    """Put NaN where only some rows may see it: at the keys that the first row of each sample may not see.

    Args:
        inputs: A call whose ``delta`` removes keys, no two samples of which share storage.
        names: Which of "k", "v" and "readout" receive it.

    Returns:
        The call, and which rows see a NaN, bool [B, Nq]; the results of the others must not change.
    """
    valid = inputs.valid()
    hidden = ~valid[:, 0]  # [B, Nk]

    def poison(x: Tensor) -> Tensor:
        return x.masked_fill(hidden.reshape(*hidden.shape, *[1] * (x.ndim - 2)), torch.nan)

    changed: dict[str, Any] = {name: poison(getattr(inputs, name)) for name in names}
    return replace(inputs, **changed), (valid & hidden[:, None]).any(2)


def _draw_qkv(case: AttentionCase, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    def draw(length: int, heads: int) -> Tensor:
        return torch.randn(case.samples, length, heads, case.head_dim, generator=generator)

    key_heads = case.heads // case.group
    q, k, v = draw(case.seqlen_q, case.heads), draw(case.seqlen_k, key_heads), draw(case.seqlen_k, key_heads)
    return q * case.spread, k, v


def _draw_edit(case: AttentionCase, generator: torch.Generator, wide: torch.dtype) -> dict[str, Tensor | None]:
    if not case.tables:
        return {}
    own = case.key_labels == "own"
    # a table needs a label even where there is no key to bear it
    count_k = max(case.seqlen_k, 1) if own else (case.key_labels or 1)
    count_q = case.query_labels or 1
    assert isinstance(count_k, int)
    edit: dict[str, Tensor | None] = {}
    for name in case.tables:
        table = torch.randn(case.batch_of("tables"), count_q, count_k, generator=generator)
        # a factor near 1, shares of the range below it, a bias of about one logit: what the papers use
        edit[name] = {"alpha": 1.0, "beta": 0.0, "gamma": 0.0, "delta": 0.0}[name] + table * (
            1.0 if name == "delta" else 0.4
        )
    delta = edit.get("delta")
    if delta is not None:
        delta[torch.rand(delta.shape, generator=generator) < case.removed] = -torch.inf
        if case.masked_label:
            delta[:, 0] = -torch.inf
    edit = {name: None if table is None else table.to(wide) for name, table in edit.items()}

    def labels(count: int, length: int) -> Tensor:
        shape = (case.batch_of("labels"), length)
        return torch.randint(count, shape, generator=generator).to(case.label_dtype)

    if case.query_labels is not None:
        edit["query_labels"] = labels(count_q, case.seqlen_q)
    if own:
        edit["key_labels"] = torch.arange(case.seqlen_k, dtype=case.label_dtype)[None]
    elif case.key_labels is not None:
        edit["key_labels"] = labels(count_k, case.seqlen_k)
    return edit


def _draw_readout(case: AttentionCase, generator: torch.Generator, wide: torch.dtype) -> Tensor | None:
    shape = (case.batch_of("readout"), case.seqlen_k, case.columns)
    if case.readout == "none":
        return None
    if case.readout == "dense":
        return torch.randn(shape, generator=generator).to(wide)
    if case.readout == "ones":
        return torch.ones(shape, dtype=wide)
    readout = torch.zeros(shape, dtype=wide)
    if case.readout == "one_hot" and case.seqlen_k:
        keys = torch.randint(case.seqlen_k, (shape[0], 1, shape[2]), generator=generator)
        readout.scatter_(1, keys, 1.0)
    return readout


def _fused(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    parts = (q, k, v) if q.shape == k.shape else (k, v)
    views = torch.cat([x.flatten(2) for x in parts], dim=-1).chunk(len(parts), dim=-1)
    heads = [view.view(*view.shape[:2], *k.shape[2:]) for view in views]
    return (heads[0], heads[1], heads[2]) if len(heads) == 3 else (q, heads[0], heads[1])


def _sliced(x: Tensor) -> Tensor:
    wider = x.new_full((*x.shape[:-1], x.shape[-1] + 5), torch.nan)
    wider[..., 3 : 3 + x.shape[-1]] = x
    return wider[..., 3 : 3 + x.shape[-1]]


_LAYOUT_MAKERS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]] = {
    "contiguous": lambda q, k, v: (q, k, v),
    "fused": _fused,
    "head_major": lambda q, k, v: (_stored(q, 1, 2), _stored(k, 1, 2), _stored(v, 1, 2)),
    "sequence_major": lambda q, k, v: (_stored(q, 0, 1), _stored(k, 0, 1), _stored(v, 0, 1)),
    "sliced": lambda q, k, v: (_sliced(q), _sliced(k), _sliced(v)),
    "expanded": lambda q, k, v: (q, k[:1].expand_as(k), v[:1].expand_as(v)),
    "mixed": lambda q, k, v: (q, _stored(k, 1, 2), _stored(v, 0, 1)),
}


def _stored(x: Tensor, first: int, second: int) -> Tensor:
    """``x`` with the same axes, in memory as if the two were swapped."""
    return x.transpose(first, second).contiguous().transpose(first, second)
