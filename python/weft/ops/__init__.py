"""The public functions. Each module holds one op: its contract, checks, choice of backend and registration."""

from __future__ import annotations

from weft.ops import regions
from weft.ops._attention_edit import Edit
from weft.ops._contrastive_loss_columns import Columns
from weft.ops.attention import attention
from weft.ops.contrastive_loss import contrastive_loss
from weft.ops.lowrank_linear import lowrank_linear
from weft.ops.pairwise_error import bounded_logit, pairwise_error

__all__ = [
    "Columns",
    "Edit",
    "attention",
    "bounded_logit",
    "contrastive_loss",
    "lowrank_linear",
    "pairwise_error",
    "regions",
]
