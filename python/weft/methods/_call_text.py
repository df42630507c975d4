"""The text of a control: the call that makes it, with all that was given and nothing else."""

from __future__ import annotations

import inspect
from typing import Any


def call_text(kind: type, **given: Any) -> str:
    """``Kind(first, name=value)``: the values ``given`` by the names of the arguments, but for their defaults.

    Arguments stay positional until one before them is left out.
    """
    parts: list[str] = []
    all_before = True
    for parameter in inspect.signature(kind).parameters.values():
        value = given.get(parameter.name, parameter.default)
        if value is parameter.default or (isinstance(value, (str, float, int, tuple)) and value == parameter.default):
            all_before = False
        elif all_before and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            parts.append(repr(value))
        else:
            parts.append(f"{parameter.name}={value!r}")
    return f"{kind.__name__}({', '.join(parts)})"
