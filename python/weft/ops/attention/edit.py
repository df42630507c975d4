"""The four label tables of an attention edit, checked once when they are put together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.kernels.attention.arguments import TABLE_NAMES
from weft.ops._tensors import check_tensor, readable


@dataclass(frozen=True, eq=False)
class Edit:
    """An affine edit of attention logits by label: ``alpha*S + beta*rowmax(S) + gamma*rowmin(S) + delta``.

    Each table is [B or 1, Lq, Lk], float32 (float64 for float64 attention), looked up at (query label, key label).
    None stands for the identity: 1 for ``alpha``, 0 for the others. Values must be finite; ``delta`` may also be
    -inf, which removes a key from every row of that label, statistics included. ``delta = log(w)`` weighs a key
    ``w`` times as much.

    Values are read once, here. Who writes into a table later (a control that keeps its tables at a fixed address,
    say) keeps that promise himself.

    Raises:
        TypeError: A table is not a float tensor, or the tables differ in dtype.
        ValueError: No table at all, one that is not [B or 1, Lq, Lk] with at least one label each way, tables that
            differ in Lq, Lk or device, or a value that is not allowed. (Batch sizes are checked against q.)
    """

    alpha: Tensor | None = None
    beta: Tensor | None = None
    gamma: Tensor | None = None
    delta: Tensor | None = None

    def __post_init__(self) -> None:
        given = {name: table for name in TABLE_NAMES if (table := getattr(self, name)) is not None}
        if not given:
            raise ValueError("Edit: needs at least one of alpha, beta, gamma, delta; leave the edit out for none")
        first_name, first = next(iter(given.items()))
        for name, table in given.items():
            check_tensor("Edit", name, table, "a float32 tensor (float64 for float64 attention)")
            if table.dtype not in (torch.float32, torch.float64):
                raise TypeError(
                    f"Edit: `{name}` must be a float32 tensor (float64 for float64 attention); got {table.dtype}"
                )
            if table.ndim != 3 or 0 in table.shape:
                raise ValueError(f"Edit: `{name}` must be [B or 1, Lq, Lk], none of them 0; got {list(table.shape)}")
            if table.shape[1:] != first.shape[1:]:
                raise ValueError(
                    f"Edit: tables must agree in Lq and Lk; `{first_name}` is {list(first.shape)}, "
                    f"`{name}` is {list(table.shape)}"
                )
            if table.dtype != first.dtype:
                raise TypeError(
                    f"Edit: tables must share a dtype; `{first_name}` is {first.dtype}, `{name}` is {table.dtype}"
                )
            if table.device != first.device:
                raise ValueError(
                    f"Edit: tables must share a device; `{first_name}` is on {first.device}, `{name}` is on "
                    f"{table.device}"
                )
            # while a compiler traces there are none; they were read when the edit was built eagerly
            values = readable(table)
            if values is not None:
                _check_values(name, values.detach())

    @property
    def labels(self) -> tuple[int, int]:
        """(Lq, Lk), the number of query and key labels."""
        table = next(table for name in TABLE_NAMES if (table := getattr(self, name)) is not None)
        return table.shape[1], table.shape[2]

    def tables(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """(alpha, beta, gamma, delta)."""
        return self.alpha, self.beta, self.gamma, self.delta


def _check_values(name: str, values: Tensor) -> None:
    allowed = values.isfinite()
    if name == "delta":
        allowed = allowed | (values == -torch.inf)
    if not bool(allowed.all()):
        place = (~allowed).nonzero()[0].tolist()
        value = values[tuple(place)].item()
        legal = "finite or -inf" if name == "delta" else "finite"
        raise ValueError(f"Edit: `{name}` must be {legal}; got {value} at {place}")
