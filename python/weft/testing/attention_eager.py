"""Attention as a careful eager processor writes it: the measure of accuracy, never the truth."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.testing.attention_inputs import AttentionInputs


def attention_eager(inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
    """``out`` and ``maps`` in the dtypes of the op, with the precision its contract grants a backend.

    Logits, statistics, edit, softmax and maps are float32 (float64 beside float64); the probabilities are rounded
    to the dtype of ``q`` for the product with V. Differentiable; a maximum shared by several keys spreads its
    gradient over them, so compare gradients on inputs without ties.

    Args:
        inputs: Any call of ``attention``; lengths may be zero.

    Returns:
        out [B, Nq, H, D] in the dtype of ``q``, maps [B, Nq, M] float32 or float64 (M = 0 without a read-out).
    """
    group = inputs.q.shape[2] // max(inputs.k.shape[2], 1)
    # [B, H, N, D] each, keys written out for every head that reads them
    q, k, v = (x.transpose(1, 2) for x in (inputs.q, inputs.k, inputs.v))
    k, v = (x if group == 1 else x.repeat_interleave(group, 1) for x in (k, v))
    wide = torch.promote_types(q.dtype, torch.float32)
    logits = q.to(wide) @ k.to(wide).transpose(-1, -2) * inputs.scale  # [B, H, Nq, Nk]
    dense = {name: _dense(table.to(wide), inputs) for name, table in inputs.tables().items()}

    removed = torch.zeros(1, 1, 1, k.shape[2], dtype=torch.bool, device=q.device)
    if inputs.key_padding is not None:
        removed = removed | inputs.key_padding[:, None, None]
    if "delta" in dense:
        removed = removed | dense["delta"].isneginf()

    edited = logits * dense["alpha"] if "alpha" in dense else logits
    # amax of no key is an error, and of no valid key an infinity that must not meet a zero
    if "beta" in dense and k.shape[2]:
        largest = logits.masked_fill(removed, -torch.inf).amax(-1, keepdim=True)
        edited = edited + dense["beta"] * largest.masked_fill(largest.isinf(), 0.0)
    if "gamma" in dense and k.shape[2]:
        smallest = logits.masked_fill(removed, torch.inf).amin(-1, keepdim=True)
        edited = edited + dense["gamma"] * smallest.masked_fill(smallest.isinf(), 0.0)
    if "delta" in dense:
        edited = edited + dense["delta"].masked_fill(removed, 0.0)

    all_removed = removed.all(-1, keepdim=True)
    kept = edited.masked_fill(removed & ~all_removed, -torch.inf)
    probabilities = kept.softmax(-1).masked_fill(removed, 0.0)
    out = (probabilities.to(q.dtype) @ v).transpose(1, 2).contiguous()
    if inputs.readout is None:
        return out, out.new_zeros(*out.shape[:2], 0, dtype=wide)
    return out, (probabilities @ inputs.readout.to(wide)[:, None]).mean(1)


def _dense(table: Tensor, inputs: AttentionInputs) -> Tensor:
    """``table`` [B or 1, Lq, Lk] gathered to [B or 1, 1, Nq, Nk]."""
    samples, queries, keys = inputs.q.shape[0], inputs.q.shape[1], inputs.k.shape[1]

    def indices(labels: Tensor | None, length: int) -> Tensor:
        found = torch.zeros(1, length, dtype=torch.long, device=table.device) if labels is None else labels.long()
        return found.expand(samples, length)

    r, c = indices(inputs.query_labels, queries), indices(inputs.key_labels, keys)
    rows = table.expand(samples, -1, -1).gather(1, r[:, :, None].expand(-1, -1, table.shape[2]))  # [B, Nq, Lk]
    return rows.gather(2, c[:, None, :].expand(-1, queries, -1))[:, None]
