"""The definition of ``attention`` in plain PyTorch. Every other backend answers to this file.

It materialises the probabilities, which the fused backends exist to avoid; use it to check, not to generate.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    alpha: Tensor | None = None,
    beta: Tensor | None = None,
    gamma: Tensor | None = None,
    delta: Tensor | None = None,
    readout: Tensor | None = None,
    query_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    key_padding: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Edit the logits by label tables, attend, and read the probabilities out through ``readout``.

        S    = scale * Q K^T
        S'   = alpha * S + beta * rowmax(S) + gamma * rowmin(S) + delta      tables looked up at [r(x), c(j)]
        P    = softmax_j(S')
        out  = P V
        maps = mean_h(P W)

    Row maximum and minimum run, per head, over the valid keys of the row: those neither padded nor removed by
    ``delta = -inf`` for the row's label. A row without a valid key gives zeros. The maximum is the logit of the
    *first* largest key, so its gradient goes to that key alone; likewise the minimum.

    Args:
        q: [B, Nq, H, D], any float dtype. Arithmetic is fp32, or fp64 for fp64 input.
        k, v: [B, Nk, H, D], dtype of ``q``.
        scale: Factor of the raw logits.
        alpha, beta, gamma, delta: [B or 1, Lq, Lk] each, or None for 1, 0, 0, 0.
        readout: W, [B or 1, Nk, M], or None for M = 0.
        query_labels: r, integer [B or 1, Nq] in [0, Lq), or None for label 0 everywhere.
        key_labels: c, integer [B or 1, Nk] in [0, Lk), or None for label 0 everywhere.
        key_padding: bool [B or 1, Nk], True where the key is padding.

    Returns:
        out [B, Nq, H, D] in the dtype of ``q``; maps [B, Nq, M] in fp32 (fp64 for fp64 input).

    Source:
        DenseDiffusion (Kim et al. 2023, arXiv:2308.12964) for the row-range edit; DAAM (Tang et al. 2022,
        arXiv:2210.04885) for head-mean maps; the affine form that holds both is weft's own.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    samples, seqlen_q, _, _ = q.shape
    seqlen_k = k.shape[1]

    logits = scale * torch.einsum("bqhd,bkhd->bhqk", q.to(wide), k.to(wide))  # [B, H, Nq, Nk]
    rows = _labels(query_labels, seqlen_q, q.device)  # [B or 1, Nq]
    columns = _labels(key_labels, seqlen_k, q.device)  # [B or 1, Nk]
    edit = {
        name: None if table is None else _look_up(table.to(wide), rows, columns)[:, None]  # [B or 1, 1, Nq, Nk]
        for name, table in (("alpha", alpha), ("beta", beta), ("gamma", gamma), ("delta", delta))
    }

    valid = torch.ones(samples, 1, seqlen_q, seqlen_k, dtype=torch.bool, device=q.device)
    if key_padding is not None:
        valid = valid & ~key_padding[:, None, None, :]
    if edit["delta"] is not None:
        valid = valid & (edit["delta"] != -torch.inf)

    edited = logits if edit["alpha"] is None else edit["alpha"] * logits
    if edit["beta"] is not None and seqlen_k:
        largest = logits.gather(-1, logits.masked_fill(~valid, -torch.inf).argmax(-1, keepdim=True))
        edited = edited + edit["beta"] * largest
    if edit["gamma"] is not None and seqlen_k:
        smallest = logits.gather(-1, logits.masked_fill(~valid, torch.inf).argmin(-1, keepdim=True))
        edited = edited + edit["gamma"] * smallest
    if edit["delta"] is not None:
        # the -inf entries are already out through `valid`; adding them would put NaN into the gradient
        edited = edited + edit["delta"].masked_fill(edit["delta"] == -torch.inf, 0.0)

    # a finite fill keeps rows without a valid key free of NaN, forward and backward
    edited = edited.masked_fill(~valid, torch.finfo(wide).min)
    probabilities = edited.softmax(-1).masked_fill(~valid, 0.0)  # [B, H, Nq, Nk]

    out = torch.einsum("bhqk,bkhd->bqhd", probabilities, v.to(wide)).to(q.dtype)
    if readout is None:
        return out, q.new_zeros(samples, seqlen_q, 0, dtype=wide)
    maps = torch.einsum("bhqk,bkm->bhqm", probabilities, readout.to(wide).expand(samples, -1, -1)).mean(1)
    return out, maps


def _labels(labels: Tensor | None, length: int, device: torch.device) -> Tensor:
    return torch.zeros(1, length, dtype=torch.long, device=device) if labels is None else labels.long()


def _look_up(table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Expand ``table`` [B or 1, Lq, Lk] to its value at every (query, key), [B or 1, Nq, Nk]."""
    samples = torch.arange(max(table.shape[0], rows.shape[0], columns.shape[0]), device=table.device)
    return table[
        (samples % table.shape[0])[:, None, None],
        rows[samples % rows.shape[0]][:, :, None],
        columns[samples % columns.shape[0]][:, None, :],
    ]
