"""The definition of ``attention`` in plain PyTorch. Every other backend answers to this file.

It materialises the probabilities, which the fused backends exist to avoid; use it to check, not to generate.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import TABLE_NAMES, Arguments


def attention_reference(call: Arguments) -> tuple[Tensor, Tensor]:
    """Edit the logits by label tables, attend, and read the probabilities out through ``readout``.

        S    = scale * Q K^T
        S'   = alpha * S + beta * rowmax(S) + gamma * rowmin(S) + delta      tables looked up at [r(x), c(j)]
        P    = softmax_j(S')
        out  = P V
        maps = mean_h(P W)

    Row maximum and minimum run, per head, over the valid keys of the row: those neither padded nor removed by
    ``delta = -inf`` for the row's label. A row without a valid key gives zeros. The maximum is the logit of the
    *first* largest key, so its gradient goes to that key alone; likewise the minimum.

    A key that is not valid for a row is as if it were absent: its k, v and row of W do not enter the row, NaN and
    infinity included, forward or backward. Where such a value is valid for a row, the row is not finite either.

    Args:
        call: Of any strides.

    Returns:
        out [B, Nq, H, D] in the dtype of ``q``; maps [B, Nq, M] in fp32 (fp64 for fp64 input).

    Source:
        DenseDiffusion (Kim et al. 2023, arXiv:2308.12964) for the row-range edit; DAAM (Tang et al. 2022,
        arXiv:2210.04885) for head-mean maps; the affine form that holds both is weft's own.
    """
    rows = attend(call)
    wide = rows.probabilities.dtype
    out = average(rows, call.v.to(wide), "bhgqk,bkhd->bqhgd").flatten(2, 3).to(call.q.dtype)
    samples, seqlen_q = call.q.shape[:2]
    if call.readout is None:
        return out, call.q.new_zeros(samples, seqlen_q, 0, dtype=wide)
    weights = call.readout.to(wide).expand(samples, -1, -1)
    return out, average(rows, weights, "bhgqk,bkm->bhgqm").flatten(1, 2).mean(1)


def average(rows: EditedRows, values: Tensor, equation: str) -> Tensor:
    """The product of P and ``values`` by an einsum's ``equation``, in which 0 times anything is 0 at absent keys.

    In the equation the heads of P are two axes, h for those of k and g for the neighbours that share one.
    """
    finite = values.isfinite()
    product = torch.einsum(equation, group_heads(rows.probabilities, 1, rows.group), values.masked_fill(~finite, 0.0))
    seen = group_heads(rows.valid.expand_as(rows.probabilities).to(values.dtype), 1, rows.group)
    return product.masked_fill(torch.einsum(equation, seen, (~finite).to(values.dtype)) > 0, torch.nan)


class EditedRows(NamedTuple):
    """The rows of one attention, with what their gradient needs. Axes [B, H, Nq, Nk] by default."""

    logits: Tensor  # S, 0 where the key is not valid
    valid: Tensor  # whether the row may see the key, bool, broadcastable
    probabilities: Tensor  # P
    tables: dict[str, Tensor | None]  # looked-up alpha, beta, gamma, delta, each [B or 1, 1, Nq, Nk]
    group: int  # heads of q that read one of k
    largest: Tensor | None  # key of the row maximum, [B, H, Nq, 1], where beta is given
    smallest: Tensor | None  # key of the row minimum, [B, H, Nq, 1], where gamma is given


def attend(call: Arguments) -> EditedRows:
    """Logits, statistics and probabilities; neither values nor read-out are read."""
    q, k = call.q, call.k
    wide = torch.promote_types(q.dtype, torch.float32)

    r = labels_or_zero(call.query_labels, q.shape[1], q.device)
    c = labels_or_zero(call.key_labels, k.shape[1], q.device)
    tables = {
        name: None if table is None else _look_up(table.to(wide), r, c)[:, None]
        for name, table in zip(TABLE_NAMES, call.tables, strict=True)
    }

    valid = torch.ones(1, 1, 1, k.shape[1], dtype=torch.bool, device=q.device)
    if call.key_padding is not None:
        valid = valid & ~call.key_padding[:, None, None, :]
    if tables["delta"] is not None:
        valid = valid & (tables["delta"] != -torch.inf)

    # selected, not multiplied, so that neither S nor its gradient meets what an absent key holds
    finite = k.isfinite()
    queries = group_heads(q.to(wide), 2, call.group)
    logits = call.scale * torch.einsum("bqhgd,bkhd->bhgqk", queries, k.to(wide).masked_fill(~finite, 0.0))
    logits = logits.masked_fill(~finite.all(-1).transpose(1, 2)[:, :, None, None], torch.nan).flatten(1, 2)
    logits = logits.masked_fill(~valid, 0.0)

    largest = smallest = None
    edited = logits if tables["alpha"] is None else tables["alpha"] * logits
    # an empty row has no arg-max to ask for, and no key to receive it
    if tables["beta"] is not None and k.shape[1]:
        largest = logits.masked_fill(~valid, -torch.inf).argmax(-1, keepdim=True)
        edited = edited + tables["beta"] * logits.gather(-1, largest)
    if tables["gamma"] is not None and k.shape[1]:
        smallest = logits.masked_fill(~valid, torch.inf).argmin(-1, keepdim=True)
        edited = edited + tables["gamma"] * logits.gather(-1, smallest)
    if tables["delta"] is not None:
        # the -inf entries are already out through `valid`; adding them would put NaN into the gradient
        edited = edited + tables["delta"].masked_fill(tables["delta"] == -torch.inf, 0.0)

    # no finite fill: a valid key may have any finite logit; but rows without a valid key would be NaN, and so their
    # gradients
    filled = edited.masked_fill(~valid, -torch.inf).masked_fill(~valid.any(-1, keepdim=True), 0.0)
    probabilities = filled.softmax(-1).masked_fill(~valid, 0.0)
    return EditedRows(logits, valid, probabilities, tables, call.group, largest, smallest)


def group_heads(x: Tensor, axis: int, group: int) -> Tensor:
    """``x`` with the heads along ``axis`` as two axes: those of k and v, and the ``group`` that share each."""
    return x.view(*x.shape[:axis], x.shape[axis] // group, group, *x.shape[axis + 1 :])


def labels_or_zero(labels: Tensor | None, length: int, device: torch.device) -> Tensor:
    """``labels`` as int64 [B or 1, length], zeros where there are none."""
    return torch.zeros(1, length, dtype=torch.long, device=device) if labels is None else labels.long()


def _look_up(table: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """Expand ``table`` [B or 1, Lq, Lk] to its value at every (query, key), [B or 1, Nq, Nk]."""
    batches = {table.shape[0], r.shape[0], c.shape[0]}
    samples = torch.arange(0 if 0 in batches else max(batches), device=table.device)
    return table[
        (samples % table.shape[0])[:, None, None],
        r[samples % r.shape[0]][:, :, None],
        c[samples % c.shape[0]][:, None, :],
    ]
