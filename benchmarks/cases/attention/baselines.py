"""What people do today for the same result, each as well as we know how.

All take q, k, v as [B, N, H, D] and give out as contiguous [B, Nq, H, D] and maps as [B, Nq, M]. Dense tables and
masks are gathered from the labels beforehand, as a caller whose regions do not change could; only the compiled eager
form gathers while it runs, because the compiler fuses that and is faster for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cases.attention.problem import Problem
from benchmarks.registry import Call
from weft.testing import AttentionInputs


class Dense(NamedTuple):
    """Tables gathered to [1, 1, Nq, Nk] in the dtype of q, or absent; labels shared by the samples."""

    alpha: Tensor | None = None
    beta: Tensor | None = None
    gamma: Tensor | None = None
    delta: Tensor | None = None


def gather_tables(x: AttentionInputs) -> Dense:
    if not x.tables():
        return Dense()
    assert x.query_labels is not None and x.key_labels is not None
    r, c = x.query_labels[0].long(), x.key_labels[0].long()
    return Dense(**{name: table[:, r][:, :, c][:, None].to(x.q.dtype) for name, table in x.tables().items()})


# --- eager ----------------------------------------------------------------------------------------------------------


def eager(problem: Problem) -> Call:
    """baddbmm, edit, softmax, bmm: a processor that has the probabilities."""
    x = problem.inputs
    dense = gather_tables(x) if x.tables() else None
    attend = partial(_eager, dense=dense, columns=problem.columns(), in_place=not problem.gradients)
    return problem.wrap(lambda: attend(x.q, x.k, x.v, x.scale, readout=x.readout))


def eager_gathering(problem: Problem) -> Call:
    """The same with the tables looked up on the way, for the compiler."""
    x = problem.inputs
    columns = problem.columns()

    def call() -> tuple[Tensor, Tensor | None]:
        dense = gather_tables(x) if x.tables() else None
        return _eager(x.q, x.k, x.v, x.scale, dense, x.readout, columns, in_place=False)

    return problem.wrap(call)


def _eager(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    dense: Dense | None,
    readout: Tensor | None,
    columns: Tensor | None,
    in_place: bool,
) -> tuple[Tensor, Tensor | None]:
    samples, _, heads, _ = q.shape
    q3, k3, v3 = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # [B * H, N, D]
    logits = torch.baddbmm(q.new_empty(1, 1, 1), q3, k3.transpose(1, 2), beta=0, alpha=scale)
    if dense is not None:
        logits = logits.unflatten(0, (samples, heads))
        logits = (_edit_in_place if in_place else _edit)(logits, dense).flatten(0, 1)
    probabilities = logits.softmax(-1)
    out = torch.bmm(probabilities, v3).unflatten(0, (samples, heads)).transpose(1, 2).contiguous()
    if readout is None:
        return out, None
    by_head = probabilities.unflatten(0, (samples, heads))
    if columns is not None:
        # only the columns that are read are averaged
        return out, by_head[..., columns].float().mean(1)
    return out, by_head.mean(1).float() @ readout


def _edit(logits: Tensor, dense: Dense) -> Tensor:
    low, high = torch.aminmax(logits, dim=-1, keepdim=True)
    edited = logits if dense.alpha is None else dense.alpha * logits
    for table, factor in ((dense.beta, high), (dense.gamma, low)):
        if table is not None:
            edited = edited + table * factor
    return edited if dense.delta is None else edited + dense.delta


def _edit_in_place(logits: Tensor, dense: Dense) -> Tensor:
    low, high = torch.aminmax(logits, dim=-1, keepdim=True)
    if dense.alpha is not None:
        logits.mul_(dense.alpha)
    for table, factor in ((dense.beta, high), (dense.gamma, low)):
        if table is not None:
            logits.addcmul_(table, factor)
    return logits if dense.delta is None else logits.add_(dense.delta)


# --- SDPA -----------------------------------------------------------------------------------------------------------


def sdpa(problem: Problem) -> Call:
    """F.scaled_dot_product_attention on transposed views, as diffusers calls it."""
    x = problem.inputs

    def call() -> tuple[Tensor, None]:
        heads_first = (t.transpose(1, 2) for t in (x.q, x.k, x.v))
        return F.scaled_dot_product_attention(*heads_first, scale=x.scale).transpose(1, 2).contiguous(), None

    return problem.wrap(call)


def sdpa_with_readout(padded: bool) -> Callable[[Problem], Call]:
    """SDPA with a dense additive mask for delta, and the read-out as more columns of V.

    Args:
        padded: Pad q and k with zeros to the width of the longer V, which the fused kernel asks for; otherwise SDPA
            falls back to whatever takes unequal widths.
    """

    def prepare(problem: Problem) -> Call:
        x = problem.inputs
        mask, width = gather_tables(x).delta, x.q.shape[3]
        assert x.readout is not None
        columns = x.readout.to(x.q.dtype)[:, :, None]  # [1, Nk, 1, M]

        def call() -> tuple[Tensor, Tensor]:
            v = torch.cat([x.v, columns.expand(*x.v.shape[:3], -1)], -1)
            q, k = (F.pad(t, (0, columns.shape[3])) if padded else t for t in (x.q, x.k))
            heads_first = (t.transpose(1, 2) for t in (q, k, v))
            both = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, scale=x.scale).transpose(1, 2)
            return both[..., :width].contiguous(), both[..., width:].float().mean(2)

        return problem.wrap(call)

    return prepare


def daam(problem: Problem) -> Call:
    """SDPA for the output, and the probabilities made a second time for the maps."""
    x = problem.inputs
    mask, columns = gather_tables(x).delta, problem.columns()

    def call() -> tuple[Tensor, Tensor]:
        q, k, v = (t.transpose(1, 2) for t in (x.q, x.k, x.v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=x.scale).transpose(1, 2).contiguous()
        logits = (q @ k.transpose(-1, -2)).mul_(x.scale)
        probabilities = (logits if mask is None else logits.add_(mask)).softmax(-1)
        if columns is not None:
            return out, probabilities[..., columns].float().mean(1)
        return out, probabilities.mean(1).float() @ x.readout

    return problem.wrap(call)
