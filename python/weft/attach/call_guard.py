"""What surrounds every call of an attached pipeline: it begins and ends a generation, on one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from weft.attach.families.host import Host
from weft.attach.generation import GenerationTracker
from weft.attach.pipeline_call import Around, Run


class CallGuard:
    """Wraps calls of a pipeline, and the call of a control's own wrapper.

    Attributes:
        inner: What a control runs in place of every call; None for nothing.
        arguments: Those of the running call, by name; None outside of calls.
    """

    def __init__(self, host: Host, tracker: GenerationTracker) -> None:
        self.inner: Around | None = None
        self.arguments: dict[str, Any] | None = None
        self._host = host
        self._tracker = tracker
        self._thread: threading.Thread | None = None

    def around(self, run: Run, arguments: dict[str, Any]) -> Any:
        """A call of the pipeline.

        Raises:
            RuntimeError: Another thread's call is running, or the pipeline has another denoiser now.
        """
        if self._host.current_model is not self._host.model:
            raise RuntimeError(
                f"attach: `{self._host.family.part}` of the pipeline was replaced after weft was attached; call "
                "`.detach()` of the attachment (or weft.detach with the old model) and attach again"
            )
        self.enter()
        is_outermost = self._thread is None
        self._thread = threading.current_thread()
        try:
            generate = self._generation(run)
            return generate(**arguments) if self.inner is None else self.inner(generate, arguments)
        finally:
            if is_outermost:
                self._thread = None

    def enter(self) -> None:
        """Raise where another thread runs the pipeline: maps and steps of both would be mixed."""
        owner = self._thread
        if owner is not None and owner is not threading.current_thread() and owner.is_alive():
            raise RuntimeError(
                "attach: an attached pipeline runs in one thread at a time, and another thread is in a call; attach a "
                "pipeline of its own to each thread (they may share weights), or take turns"
            )

    def _generation(self, run: Run) -> Callable[..., Any]:
        """``run``, which is one generation however often a control calls it."""

        def generate(**arguments: Any) -> Any:
            self.arguments = arguments
            self._tracker.begin_call()
            try:
                return run(**arguments)
            finally:
                self._tracker.end_call()
                self.arguments = None

        return generate
