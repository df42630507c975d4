"""The Triton backend of ``pairwise_error``. Triton itself is imported on the first call that it takes."""

from __future__ import annotations

from torch import Tensor

from weft.ops._triton import refuse_machine, refuse_tensor


def refuse(pred: Tensor) -> list[str]:
    """Why the Triton kernels cannot take a call; empty if they can."""
    return refuse_tensor("pred", pred) or refuse_machine(pred.device)


def pairwise_error_fwd_triton(pred: Tensor, target: Tensor) -> Tensor:
    """The result for inputs that ``refuse`` accepts."""
    from weft.kernels.pairwise_error.fwd import pairwise_error_fwd

    return pairwise_error_fwd(pred, target)


def pairwise_error_bwd_triton(
    derror: Tensor, pred: Tensor, target: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """The gradients of ``pairwise_error_backward_reference``, which says what the arguments are."""
    from weft.kernels.pairwise_error.bwd import pairwise_error_bwd

    return pairwise_error_bwd(derror, pred, target, wanted)
