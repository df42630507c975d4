"""What tensors make a set of soft tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def check_tensors(tokens: Any, offsets: Any, blocks: int, most_buckets: int) -> None:
    """Refuse what is not tokens [m, C] with offsets [buckets, C], or [L, m, C] with [buckets, L, C], L = ``blocks``.

    Raises:
        TypeError: No float tensor.
        ValueError: Another shape, or values that are not finite.
    """
    for name, value in (("tokens", tokens), ("offsets", offsets)):
        if name == "offsets" and value is None:
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"SoftTokens: `{name}` must be a float tensor; got {getattr(value, 'dtype', value)!r}")
        if 0 in value.shape:
            raise ValueError(f"SoftTokens: `{name}` must have none of its sides 0; got {list(value.shape)}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"SoftTokens: `{name}` must be finite")
    if tokens.ndim not in (2, 3):
        raise ValueError(f"SoftTokens: `tokens` must be [m, C] or [L, m, C]; got {list(tokens.shape)}")
    if tokens.ndim == 3 and len(tokens) != blocks:
        raise ValueError(
            f"SoftTokens: `tokens` [L, m, C] must have a set for each of `blocks`; got {len(tokens)} for {blocks}"
        )
    if offsets is None:
        return
    # one row a bucket, shaped as the tokens are but for m, which share it
    shared = (*tokens.shape[:-2], tokens.shape[-1])
    if offsets.shape[1:] != shared:
        raise ValueError(
            f"SoftTokens: `offsets` must be [buckets, {', '.join(map(str, shared))}] to go with tokens "
            f"{list(tokens.shape)}; got {list(offsets.shape)}"
        )
    if len(offsets) > most_buckets:
        raise ValueError(f"SoftTokens: `offsets` must have at most {most_buckets} rows; got {len(offsets)}")
