"""Checkpoints that are either whole or absent, a clean answer to Ctrl-C and SIGTERM, and how else a run may end."""

from __future__ import annotations

import pickle
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from weft._files import whole_file


class Interrupted(Exception):
    """Training was asked to stop; the checkpoint holds everything needed to go on."""


class Diverged(ArithmeticError):
    """The loss or a parameter is no longer finite; the last good checkpoint was kept."""


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


class Interruption:
    """While entered, Ctrl-C and SIGTERM only set ``requested``; the loop stops at the end of its step.

    Does nothing outside the main thread, where Python takes no signals.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
