"""The gradient of ``attention_reference`` by formula, a block of rows at a time.

Nothing is kept from the forward: logits and probabilities of a block are made again. Memory is one block of
[H, rows, Nk], not the [B, H, Nq, Nk] that autograd of the definition would keep.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import TABLE_NAMES, Arguments
from .reference import EditedRows, attend, group_heads, labels_or_zero

# rows of one block: 512 rows of 8 heads against 4096 keys are 64 MiB of fp32
BLOCK_ROWS = 512


class AttentionGradients(NamedTuple):
    """One gradient an input; empty where it was not asked for."""

    dq: Tensor
    dk: Tensor
    dv: Tensor
    dalpha: Tensor
    dbeta: Tensor
    dgamma: Tensor
    ddelta: Tensor
    dreadout: Tensor


def attention_backward_reference(
    dout: Tensor, dmaps: Tensor, call: Arguments, table_gradients: bool, readout_gradient: bool
) -> AttentionGradients:
    """Gradients of ``out`` and ``maps`` together, with respect to every float input.

        dP  = dO V^T + (dMaps / H) W^T                dS' = P * (dP - rowsum(P * dP))
        dS  = alpha * dS',  plus sum_j(beta * dS') at the row's largest key, sum_j(gamma * dS') at its smallest
        dQ  = scale * dS K       dK = scale * dS^T Q       dV = P^T dO       dW = sum_h(P^T dMaps) / H

    Pairs of a row and a key that is not valid for it have no part in any sum, and the gradient of padding is 0.
    A table's gradient sums dS' times what the table multiplies (S, the row maximum, the row minimum, 1) over all
    heads and all pairs with its labels.

    Args:
        dout: [B, Nq, H, D].
        dmaps: [B, Nq, M].
        call: What ``attention_reference`` was given.
        table_gradients, readout_gradient: Whether these are wanted.

    Returns:
        dq, dk, dv in the shape and dtype of q, k, v; the tables' and the read-out's in theirs, empty if not wanted.

    Source:
        Ordinary softmax backward (Dao et al. 2022, arXiv:2205.14135, section B.2) with M more value columns.
    """
    q, k, v, readout, key_padding = call.q, call.k, call.v, call.readout, call.key_padding
    wide = torch.promote_types(q.dtype, torch.float32)
    dq = torch.zeros(q.shape, dtype=wide, device=q.device)
    dk = torch.zeros(k.shape, dtype=wide, device=q.device)
    dv = torch.zeros(v.shape, dtype=wide, device=q.device)
    group = call.group
    tables = dict(zip(TABLE_NAMES, call.tables, strict=True))
    dtables = {
        name: torch.zeros(table.shape, dtype=wide, device=q.device)
        for name, table in tables.items()
        if table is not None and table_gradients
    }
    dreadout = None
    if readout is not None and readout_gradient:
        dreadout = torch.zeros(readout.shape, dtype=wide, device=q.device)

    for b in range(q.shape[0]):
        for start in range(0, q.shape[1], BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            one = _of_block(call, b, rows)
            block = attend(one)
            dout_block = group_heads(dout[b, rows].to(wide), 1, group)  # [rows, Hk, H / Hk, D]
            p = block.probabilities[0]  # [H, rows, Nk]

            dp = torch.einsum("qhgd,khd->hgqk", dout_block, v[b].to(wide)).flatten(0, 1)
            if readout is not None:
                per_head = dmaps[b, rows].to(wide) / q.shape[2]  # [rows, M]
                weights = readout[b % readout.shape[0]].to(wide)
                dp = dp + torch.einsum("qm,km->qk", per_head, weights)
                if dreadout is not None:
                    dreadout[b % readout.shape[0]] += torch.einsum("hqk,qm->km", p, per_head)
            absent = ~block.valid[0]
            dp = dp.masked_fill(absent, 0.0)
            dedited = (p * (dp - (p * dp).sum(-1, keepdim=True))).masked_fill(absent, 0.0)

            dlogits = _through_edit(dedited, block)
            # where a row may see such a k, its P is NaN already
            finite_k = k[b].to(wide).masked_fill(~k[b].isfinite(), 0.0)
            by_group = group_heads(dlogits, 0, group)
            dq[b, rows] = call.scale * torch.einsum("hgqk,khd->qhgd", by_group, finite_k).flatten(1, 2)
            queries = group_heads(q[b, rows].to(wide), 1, group)
            dk[b] += call.scale * torch.einsum("hgqk,qhgd->khd", by_group, queries)
            dv[b] += torch.einsum("hgqk,qhgd->khd", group_heads(p, 0, group), dout_block)
            for name, dtable in dtables.items():
                r_block = labels_or_zero(one.query_labels, p.shape[1], q.device)[0]
                c_block = labels_or_zero(one.key_labels, p.shape[2], q.device)[0]
                pairs = r_block[:, None] * dtable.shape[2] + c_block  # [rows, Nk]
                per_pair = (dedited * _multiplied_by(name, block)).sum(0)
                dtable[b % dtable.shape[0]].view(-1).index_add_(0, pairs.flatten(), per_pair.flatten())

    if key_padding is not None:
        # 0 also where an arriving gradient is not finite
        dk.masked_fill_(key_padding[..., None, None], 0.0)
        dv.masked_fill_(key_padding[..., None, None], 0.0)
        if dreadout is not None:
            shared = key_padding.all(0, keepdim=True) if dreadout.shape[0] == 1 else key_padding
            dreadout.masked_fill_(shared[..., None], 0.0)

    def finish(gradient: Tensor | None, like: Tensor | None) -> Tensor:
        return q.new_empty(0) if gradient is None or like is None else gradient.to(like.dtype)

    return AttentionGradients(
        dq=finish(dq, q),
        dk=finish(dk, k),
        dv=finish(dv, v),
        dalpha=finish(dtables.get("alpha"), call.alpha),
        dbeta=finish(dtables.get("beta"), call.beta),
        dgamma=finish(dtables.get("gamma"), call.gamma),
        ddelta=finish(dtables.get("delta"), call.delta),
        dreadout=finish(dreadout, readout),
    )


def _of_block(call: Arguments, b: int, rows: slice) -> Arguments:
    """The part of the call that some rows of sample ``b`` are."""
    one = call.mapped(lambda x: _of_sample(x, b))
    r = one.query_labels
    return one._replace(q=one.q[:, rows], query_labels=None if r is None else r[:, rows])


def _of_sample(tensor: Tensor, b: int) -> Tensor:
    """Sample ``b`` of a [B or 1, ...] tensor, the first axis kept."""
    return tensor[b % tensor.shape[0]][None]


def _through_edit(dedited: Tensor, block: EditedRows) -> Tensor:
    """Carry a gradient from the edited logits to the raw ones, [H, rows, Nk]."""
    alpha, beta, gamma = (block.tables[name] for name in ("alpha", "beta", "gamma"))
    dlogits = dedited if alpha is None else alpha[0] * dedited
    if beta is not None and block.largest is not None:
        dlogits = dlogits.scatter_add(-1, block.largest[0], (beta[0] * dedited).sum(-1, keepdim=True))
    if gamma is not None and block.smallest is not None:
        dlogits = dlogits.scatter_add(-1, block.smallest[0], (gamma[0] * dedited).sum(-1, keepdim=True))
    return dlogits


def _multiplied_by(name: str, block: EditedRows) -> Tensor:
    """What table ``name`` multiplies, broadcastable to [H, rows, Nk]."""
    logits = block.logits[0]
    if name == "alpha":
        return logits
    if name == "beta" and block.largest is not None:
        return logits.gather(-1, block.largest[0])
    if name == "gamma" and block.smallest is not None:
        return logits.gather(-1, block.smallest[0])
    return torch.ones_like(logits)
