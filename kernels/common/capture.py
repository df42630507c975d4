"""What a first call does and no later one, which a CUDA graph therefore cannot capture."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
Kept = TypeVar("Kept")


def first_call(what: str) -> str:
    """The message of an error."""
    return f"{what}: a CUDA graph cannot capture the first call; run the same call once before the capture"


def kept_on_device(make: Callable[P, Kept]) -> Callable[P, Kept]:
    """Keep the tensors that ``make`` computes from plain values for the ``torch.device`` that is its last argument.

    Later calls copy nothing to the device, so a graph may capture them. A tensor made during a capture would have no
    values until the graph is replayed, and its memory belongs to the graph: that call raises ``RuntimeError``.
    """

    @lru_cache(maxsize=256)
    def kept(*arguments: P.args, **named: P.kwargs) -> Kept:
        device = arguments[-1]
        assert isinstance(device, torch.device)
        if device.type == "cuda":
            with torch.cuda.device(device):
                if torch.cuda.is_current_stream_capturing():
                    raise RuntimeError(first_call(make.__name__))
        return make(*arguments, **named)

    return kept  # type: ignore[return-value]  # lru_cache has no ParamSpec
