"""How a run may end before its last step: a clean answer to Ctrl-C and SIGTERM, and numbers that are not finite."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):
    """Training was asked to stop; the checkpoint holds everything needed to go on."""


class Diverged(ArithmeticError):
    """The loss or a parameter is no longer finite; the last good checkpoint was kept."""


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
