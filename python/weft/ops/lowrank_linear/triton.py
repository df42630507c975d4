"""The Triton backend of ``lowrank_linear``. Triton itself is imported on the first call that it takes."""

from __future__ import annotations

from torch import Tensor

from weft.kernels.lowrank_linear.arguments import Arguments
from weft.kernels.lowrank_linear.reference_bwd import Wanted
from weft.ops._triton import refuse_machine, refuse_tensor


def refuse(call: Arguments) -> list[str]:
    """Why the Triton kernels cannot take a call; empty if they can."""
    return refuse_tensor("x", call.x) or refuse_machine(call.x.device)


def lowrank_linear_fwd_triton(call: Arguments) -> Tensor:
    """The result for inputs that ``refuse`` accepts."""
    from weft.kernels.lowrank_linear.fwd import lowrank_linear_fwd
    from weft.kernels.lowrank_linear.host import Call

    return lowrank_linear_fwd(Call(call))


def lowrank_linear_bwd_triton(dy: Tensor, call: Arguments, wanted: Wanted) -> tuple[Tensor, ...]:
    """The gradients of ``lowrank_linear_backward_reference``, which says what the arguments are."""
    from weft.kernels.lowrank_linear.bwd import lowrank_linear_bwd
    from weft.kernels.lowrank_linear.host import Call

    found = lowrank_linear_bwd(Call(call), dy, wanted._asdict())
    return tuple(found.get(name, call.x.new_empty(0)) for name in Wanted._fields)
