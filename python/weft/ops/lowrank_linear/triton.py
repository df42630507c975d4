"""The Triton backend of ``lowrank_linear``. Triton itself is imported on the first call that it takes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from weft.kernels.lowrank_linear.reference_bwd import Wanted
from weft.ops._triton import refuse_machine, refuse_tensor


def refuse(x: Tensor, *rest: Any) -> list[str]:
    """Why the Triton kernels cannot take a call; empty if they can."""
    return refuse_tensor("x", x) or refuse_machine(x.device)


def lowrank_linear_fwd_triton(x: Tensor, *rest: Any) -> Tensor:
    """The result for inputs that ``refuse`` accepts, ordered as in ``lowrank_linear_reference``."""
    from weft.kernels.lowrank_linear.fwd import lowrank_linear_fwd
    from weft.kernels.lowrank_linear.host import Call

    *inputs, channels_first = rest
    return lowrank_linear_fwd(Call(x, *inputs), channels_first)


def lowrank_linear_bwd_triton(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    down: Tensor | None,
    up: Tensor | None,
    ranks: tuple[int, ...],
    gate: Tensor | None,
    wanted: Wanted,
) -> tuple[Tensor, ...]:
    """The gradients of ``lowrank_linear_backward_reference``, which says what the arguments are."""
    from weft.kernels.lowrank_linear.bwd import lowrank_linear_bwd
    from weft.kernels.lowrank_linear.host import Call

    found = lowrank_linear_bwd(Call(x, weight, None, down, up, ranks, gate), dy, wanted._asdict())
    return tuple(found.get(name, x.new_empty(0)) for name in Wanted._fields)
