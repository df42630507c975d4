"""The four encoded texts that a branch ever reads; with them it needs no text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from weft.methods.powerpaint.recipes import NAMES, PromptName

StateName = Literal["context", "shape", "object", "empty"]
STATE_NAMES: tuple[StateName, ...] = get_args(StateName)
STATES = "states."  # before a text's name in a file of weft

assert set(NAMES) <= set(STATE_NAMES)


def mixed(states: Mapping[StateName, Tensor], pair: tuple[PromptName | None, PromptName | None], fit: float) -> Tensor:
    """fit * first + (1 - fit) * second, [Nk, C], and exactly one of them at either end; None is the empty text."""
    first, second = (states[name or "empty"] for name in pair)
    if pair[0] == pair[1] or fit == 1.0:
        return first
    return torch.lerp(second, first, fit)


def check_states(states: Any, width: int, *, who: str) -> None:
    """
    Raises:
        TypeError, ValueError: They are not one [Nk, C] for each of ``STATE_NAMES``.
    """
    if not isinstance(states, Mapping) or set(states) != set(STATE_NAMES):
        raise ValueError(f"{who}: `states` must have the texts {', '.join(map(repr, STATE_NAMES))}; got {states!r}")
    for name, state in states.items():
        if not isinstance(state, Tensor) or not state.is_floating_point():
            raise TypeError(f"{who}: the state of {name!r} must be a float tensor; got {type(state).__name__}")
        if state.ndim != 2 or state.shape[1] != width or not bool(state.isfinite().all()):
            raise ValueError(
                f"{who}: the state of {name!r} must be a finite matrix [Nk, {width}]; got {list(state.shape)}"
            )
    if len({len(state) for state in states.values()}) > 1:
        raise ValueError(f"{who}: the states of all texts must be equally long")
