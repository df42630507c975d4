"""Options of a command with some of them changed, wherever in the nested records they are."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")


def changed(record: T, **values: Any) -> T:
    """``record``, or the records in it, with fields of these names changed.

    Raises:
        TypeError: A name that no record has.
    """
    made, rest = _changed(record, values)
    if rest:
        raise TypeError(f"no field {', '.join(rest)} in {type(record).__name__}")
    return made


def _changed(record: Any, values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    names = {field.name for field in fields(record)}
    own, rest = ({name: values[name] for name in values if (name in names) is here} for here in (True, False))
    for field in reversed(fields(record)):  # losses are named in the last one
        name = field.name
        if rest and is_dataclass(inner := getattr(record, name)):
            made, left = _changed(inner, rest)
            if left != rest:
                own[name], rest = made, left
    return replace(record, **own), rest
