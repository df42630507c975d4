"""Providers under torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from benchmarks.registry import Call

Problem = TypeVar("Problem")


class Wrapped:
    """A call that runs another one, ``call``, and takes gradients of its results: only the inner one is compiled."""

    call: Call


def compiled(prepare: Callable[[Problem], Call]) -> Callable[[Problem], Call]:
    """The same under torch.compile, static shapes. Compiling happens at the first call, before any timing."""

    def prepare_compiled(problem: Problem) -> Call:
        call = prepare(problem)
        if isinstance(call, Wrapped):
            call.call = torch.compile(call.call, dynamic=False, fullgraph=True)
            return call
        return torch.compile(call, dynamic=False, fullgraph=True)

    return prepare_compiled
