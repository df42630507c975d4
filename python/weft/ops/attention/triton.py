"""The Triton backend of ``attention``. Triton itself is imported on the first call that it takes."""

from __future__ import annotations

from torch import Tensor

from weft import _env
from weft.kernels.attention.arguments import Arguments
from weft.ops._triton import refuse_machine, refuse_tensor

# read-out columns that one launch keeps in registers; kernels/attention/launch.py has the reason
MAX_COLUMNS = 128
MAX_HEAD_WIDTH = 256


def refuse(call: Arguments) -> list[str]:
    """Why the Triton kernels cannot take a call; empty if they can."""
    q, readout = call.q, call.readout
    reasons = refuse_tensor("q", q)
    if q.shape[-1] > MAX_HEAD_WIDTH:
        reasons.append(f"needs D <= {MAX_HEAD_WIDTH}; D is {q.shape[-1]}")
    if readout is not None and readout.shape[2] > MAX_COLUMNS:
        reasons.append(f"needs M <= {MAX_COLUMNS} read-out columns; M is {readout.shape[2]}: split the read-out")
    for name, x in (("q", q), ("k", call.k), ("v", call.v)):
        if x.stride(-1) != 1 and x.shape[-1] > 1 and x.numel() > 0:
            reasons.append(f"needs unit stride along D; {name} has strides {tuple(x.stride())}")
    return reasons or refuse_machine(q.device)


def attention_fwd_triton(call: Arguments) -> tuple[Tensor, Tensor]:
    """(out, maps) of a call that ``refuse`` accepts."""
    from weft.kernels.attention.fwd import attention_fwd
    from weft.kernels.attention.host import Call

    _use_launch_table()
    done = attention_fwd(Call(call))
    return done.out, done.maps


def attention_bwd_triton(
    dout: Tensor, dmaps: Tensor, call: Arguments, table_gradients: bool, readout_gradient: bool
) -> tuple[Tensor, ...]:
    """The gradients of ``attention_backward_reference``, which says what the arguments are.

    Forward runs once more for its row statistics: the registered operator keeps its inputs alone, so that any
    backend's forward may come before any other's backward.
    """
    from weft.kernels.attention.bwd import attention_bwd
    from weft.kernels.attention.fwd import attention_fwd
    from weft.kernels.attention.host import Call

    _use_launch_table()
    prepared = Call(call)
    forward = attention_fwd(prepared, keep_rows=True)
    return attention_bwd(prepared, dout, dmaps, forward, table_gradients, readout_gradient)


def _use_launch_table() -> None:
    from weft.kernels.attention import launch_file

    launch_file.use_file(_env.settings().launch_table)
