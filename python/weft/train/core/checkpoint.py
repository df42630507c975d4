"""Checkpoints that are either whole or absent."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from weft._files import whole_file


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write ``state``; a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state that ``save_atomically`` wrote, on the CPU, or None when there is no such file.

    Raises:
        ValueError: It is damaged, or no such state.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"train: the checkpoint {path} cannot be read, it is damaged or something else; put a copy in its place, "
            "or begin in another folder"
        ) from error
    return state
