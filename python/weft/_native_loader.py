"""The one way to ``weft._native``, which a machine without a compiler does not have."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

from weft import _env
from weft._errors import BackendUnavailableError

HOW_TO_BUILD = "install a C++17 compiler and the Python headers, then run `pip install` for weft again"


@functools.cache
def _load() -> ModuleType | ImportError:
    try:
        module = importlib.import_module("weft._native")
    except ImportError as error:
        return error
    strongest = _env.settings().instruction_set
    if strongest != "auto":
        try:
            module.limit_instruction_sets(strongest)
        except ValueError as error:
            raise ValueError(f"`{_env.variable('instruction_set')}`: {error}") from None
    return module


def native_or_none() -> ModuleType | None:
    """``weft._native``, or None where it is not built or does not load."""
    module = _load()
    return module if isinstance(module, ModuleType) else None


def why_not_native() -> str | None:
    """The reason why ``weft._native`` cannot be used and what to do; None if it can."""
    module = _load()
    if isinstance(module, ModuleType):
        return None
    # a module that exists and does not load (a foreign Python, a missing system library) keeps its own message
    cause = "it is not built" if isinstance(module, ModuleNotFoundError) else str(module)
    return f"weft._native cannot be used: {cause}; {HOW_TO_BUILD}"


def native() -> ModuleType:
    """``weft._native``.

    Raises:
        BackendUnavailableError: It is not built or does not load; the message says how to build it.
    """
    reason = why_not_native()
    if reason is not None:
        raise BackendUnavailableError(reason)
    module = _load()
    assert isinstance(module, ModuleType)
    return module
