"""Configurations that check themselves: at once, or all together when the command line has read every option."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from typing import Any

_AT_ONCE: ContextVar[bool] = ContextVar("at_once", default=True)


class Checked:
    """Base of a dataclass whose values ``check`` refuses as soon as it is made."""

    def __post_init__(self) -> None:
        if _AT_ONCE.get():
            self.check()

    def check(self) -> None:
        """Raise ``ValueError`` or ``TypeError`` where a value is not allowed."""


@contextmanager
def checked_later() -> Iterator[None]:
    """Make configurations without a look at their values; ``check_all`` looks.

    A parser of options takes what a constructor raises for an error of its own, and words it in its own way.
    """
    token = _AT_ONCE.set(False)
    try:
        yield
    finally:
        _AT_ONCE.reset(token)


def check_all(value: Any) -> None:
    """Check ``value`` and every configuration among its fields."""
    if isinstance(value, Checked):
        value.check()
    if is_dataclass(value):
        for field in fields(value):
            check_all(getattr(value, field.name))
