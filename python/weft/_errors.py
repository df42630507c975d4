"""The one error type of our own; everything else is a built-in exception."""

from __future__ import annotations


class BackendUnavailableError(RuntimeError):
    """No backend takes the call, the named backend refuses it, or the native extension is not built."""
