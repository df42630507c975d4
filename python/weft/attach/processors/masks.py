"""The mask that a processor gives its attention, in the terms of ``weft.ops.attention``."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.ops import Edit

# diffusers turns a mask of ones and zeros into 0 and -10000; anything below this bias is a masked key
_PADDING_BIAS = -5000.0


def key_padding(mask: Tensor | None, seqlen_k: int, layer: str) -> Tensor | None:
    """bool [B or 1, Nk], True for padding, of a mask over keys.

    Args:
        mask: [B or 1, H or 1, 1, Nk] or [B, Nk]; bool with True for keys that are seen, or a bias of 0 and large
            negative numbers.
        layer: Its name, for messages.

    Raises:
        ValueError: The mask differs from query to query.
    """
    if mask is None:
        return None
    is_over_keys = mask.shape[-1] == seqlen_k and (mask.ndim == 2 or (mask.ndim == 4 and mask.shape[2] == 1))
    if not is_over_keys:
        raise ValueError(
            f"attach: a controlled layer takes a mask over keys, [B, 1, 1, {seqlen_k}]; got {list(mask.shape)} in "
            f"{layer}; leave the mask out, or choose other layers"
        )
    rows = mask if mask.ndim == 2 else mask[:, 0, 0]
    return ~rows if rows.dtype == torch.bool else rows < _PADDING_BIAS


def product_labels(mask: Tensor) -> Tensor:
    """The vector u of a mask u_i * u_j [B, 1, N, N] of zeros and ones, as labels int32 [B, N]."""
    return mask[:, 0].diagonal(dim1=-2, dim2=-1).ne(0).int()


def with_product(
    edit: Edit | None, query_labels: Tensor | None, key_labels: Tensor | None, mask: Tensor, layer: str
) -> tuple[Edit, Tensor, Tensor]:
    """An edit whose logits have ``mask`` added first: every label in two, for tokens with the mask and without.

    Args:
        mask: [B, 1, N, N], as of ``product_labels``, of an attention of N tokens to themselves.
        layer: Its name, for messages.

    Returns:
        The edit, and labels of its queries and keys.

    Raises:
        ValueError: The edit reads the largest or smallest logit of a row, which the mask has moved.
    """
    has = product_labels(mask)
    added = torch.zeros(2, 2, device=mask.device)
    added[1, 1] = 1.0
    if edit is None:
        return Edit(delta=added.to(torch.promote_types(mask.dtype, torch.float32))[None]), has, has
    alpha, beta, gamma, delta = edit.tables()
    if beta is not None or gamma is not None:
        raise ValueError(
            f"attach: the mask of {layer} is added to its logits, which beta and gamma of an edit read; edits of this "
            "model have alpha and delta alone"
        )
    known = next(table for table in (alpha, delta) if table is not None)
    tiled = added.to(known).repeat(known.shape[-2], known.shape[-1])
    alpha, delta = (None if x is None else x.repeat_interleave(2, -2).repeat_interleave(2, -1) for x in (alpha, delta))
    delta = (tiled if alpha is None else alpha * tiled) + (0 if delta is None else delta)
    labels = (2 * (0 if x is None else x) + has for x in (query_labels, key_labels))
    return Edit(alpha=alpha, delta=delta.reshape(-1, *tiled.shape)), *labels  # type: ignore[return-value]
