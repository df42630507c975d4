"""Choosing a backend, and saying no.

An op lists its backends in order of preference. Each can say, before it runs, why it does not take a call. ``auto``
takes the first that has no objection; a name is an order, so its objection is an error and never a quiet fallback.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from typing import Any

import torch

from weft import _env
from weft._errors import BackendUnavailableError

BACKEND_NAMES = ("auto", "cuda", "triton", "cpu", "reference")

_requested: ContextVar[str | None] = ContextVar("weft_backend", default=None)
# the blocks that a compiler is inside of: it can follow a list, not a ContextVar, and never really appends to it
_traced: list[str] = []


def _never(*arguments: Any) -> bool:
    return False


@dataclass(frozen=True)
class Backend:
    """One way to compute an op.

    Attributes:
        name: One of ``BACKEND_NAMES`` but "auto".
        refuse: Called with the op's arguments; the reasons why this backend does not take them, empty for yes.
        forward: Called with the same arguments; the result.
        backward: Called with the gradients of the result, then these arguments and what else the op's backward takes;
            the gradients of the arguments. None where another backend's serves.
        only_by_name: Called with the op's arguments; whether ``auto`` passes over this backend although it does not
            refuse: it works but is no sensible choice, as with an interpreter.
    """

    name: str
    refuse: Callable[..., list[str]]
    forward: Callable[..., Any]
    backward: Callable[..., Any] | None = None
    only_by_name: Callable[..., bool] = _never


@dataclass(frozen=True)
class Op:
    """An op and its backends, preferred first; the last is the definition, ``reference``."""

    name: str
    backends: tuple[Backend, ...]

    def choose(self, requested: str, *arguments: Any) -> Backend:
        """The first backend that takes ``arguments``, or the ``requested`` one.

        Raises:
            BackendUnavailableError: The requested backend refuses, is not written for this op, or none accepts.
        """
        if requested != "auto" and all(backend.name != requested for backend in self.backends):
            known = ", ".join(backend.name for backend in self.backends)
            raise BackendUnavailableError(f"{self.name}: has no `{requested}` backend; it has {known}")
        refusals = {}
        # none is asked beyond the one that is taken: this runs before kernels of a few microseconds
        for backend in self.backends:
            if backend.only_by_name(*arguments) if requested == "auto" else backend.name != requested:
                continue
            reasons = backend.refuse(*arguments)
            if not reasons:
                return backend
            refusals[backend.name] = reasons
        headline = "no backend takes this call" if requested == "auto" else f"`{requested}` does not take this call"
        lines = [f"  {name}: {'; '.join(reasons)}" for name, reasons in refusals.items()]
        raise BackendUnavailableError("\n".join([f"{self.name}: {headline}", *lines]))

    def choose_where_known(self, name: str | None, *arguments: Any) -> Backend:
        """As ``choose``, for an op that lacks some of the backends there are.

        A name given to the call is an order; one that is in force for every op counts if this op has such a backend.
        """
        if name is not None:
            return self.choose(check_backend_name(name), *arguments)
        requested = requested_backend(None)
        known = any(backend.name == requested for backend in self.backends)
        return self.choose(requested if known else "auto", *arguments)

    def choose_backward(self, requested: str, *arguments: Any) -> Backend:
        """The backend for the gradients of a call with ``arguments`` that asked for ``requested``.

        The requested one if it has a backward, else the first that has one and takes the call: a backend for
        inference alone is no reason against training.

        Raises:
            BackendUnavailableError: None of those with a backward accepts.
        """
        with_backward = tuple(backend for backend in self.backends if backend.backward is not None)
        named = any(backend.name == requested for backend in with_backward)
        return replace(self, backends=with_backward).choose(requested if named else "auto", *arguments)

    def definition(self, name: str | None) -> Backend:
        """``reference``, for a call that only plain PyTorch can answer: inside torch.func or with tangents.

        Args:
            name: The backend that the call itself names. One that is in force for every op is an order, too, if this
                op has it.

        Raises:
            BackendUnavailableError: Another backend than ``reference`` is asked for.
        """
        requested = named_in_trace(name) if torch.compiler.is_compiling() else requested_backend(name)
        plain = self.backends[-1]
        others = [backend.name for backend in self.backends[:-1]]
        if requested in others or (name is not None and requested not in ("auto", plain.name)):
            raise BackendUnavailableError(
                f"{self.name}: `{requested}` cannot be called inside a torch.func transform (vmap, grad, jvp) or with "
                f'forward-mode tangents; leave `backend` out or ask for "{plain.name}", plain PyTorch'
            )
        return plain

    def explain(self, *arguments: Any) -> dict[str, list[str]]:
        """Each backend's objections to ``arguments``, preferred backend first; nothing is run."""
        return {backend.name: backend.refuse(*arguments) for backend in self.backends}


def check_backend_name(name: str, origin: str = "backend") -> str:
    """``name`` itself, if it is a known backend; ``origin`` is where it was given.

    Raises:
        ValueError: It is not.
    """
    if name not in BACKEND_NAMES:
        raise ValueError(f"{origin}: must be one of {', '.join(BACKEND_NAMES)}; got {name!r}")
    return name


def requested_backend(name: str | None) -> str:
    """What a call asks for: its own ``name``, else the innermost ``weft.backend``, else WEFT_BACKEND, else "auto"."""
    if name is not None:
        return check_backend_name(name)
    chosen = _requested.get()
    if chosen is not None:
        return chosen
    return check_backend_name(_env.settings().backend, origin=_env.variable("backend"))


class backend:
    """Ask for one backend for every op called inside the block.

    Inside a function that is being compiled, the choice is made once, while it is traced.

    Args:
        name: "auto", "cuda", "triton", "cpu" or "reference".

    Raises:
        ValueError: ``name`` is not one of these.

    Example:
        >>> with weft.backend("reference"):
        ...     pipe("a red circle")
    """

    def __init__(self, name: str) -> None:
        self.name = check_backend_name(name)
        self._tokens: list[Token[str | None]] = []

    def __enter__(self) -> None:
        if torch.compiler.is_compiling():
            _traced.append(self.name)
        else:
            self._tokens.append(_requested.set(self.name))

    def __exit__(self, *error: object) -> None:
        if torch.compiler.is_compiling():
            _traced.pop()
        else:
            _requested.reset(self._tokens.pop())


def named_in_trace(name: str | None) -> str:
    """What a traced call hands to its registered operator: its own ``name``, else the innermost block of the trace.

    Empty if there is neither; the choice is then made again at every run, by ``requested_backend``.
    """
    if name is not None:
        return check_backend_name(name)
    return _traced[-1] if torch.compiler.is_compiling() and _traced else ""
