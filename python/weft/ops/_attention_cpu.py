"""The C++ backend of ``attention``: pointers across the border."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def refuse(*arguments: Any) -> list[str]:
    return ["weft._native has no attention kernel"]


def attention_fwd_cpu(*arguments: Any) -> tuple[Tensor, Tensor]:
    raise AssertionError("refused above")
