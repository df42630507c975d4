"""The public functions. Each module holds one op: its contract, checks, choice of backend and registration."""

from __future__ import annotations

from weft.ops import regions
from weft.ops._attention_edit import Edit
from weft.ops.attention import attention
from weft.ops.lowrank_linear import lowrank_linear

__all__ = ["Edit", "attention", "lowrank_linear", "regions"]
