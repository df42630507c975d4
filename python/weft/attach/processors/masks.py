"""The mask that a processor gives its attention, in the terms of ``weft.ops.attention``."""

from __future__ import annotations

import torch
from torch import Tensor

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
