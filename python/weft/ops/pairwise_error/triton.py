"""The Triton backend of ``pairwise_error``. Triton itself is imported on the first call that it takes."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.ops._triton import is_interpreted, refuse_machine


def refuse(pred: Tensor) -> list[str]:
    """Why the Triton kernels cannot take a call; empty if they can."""
    reasons = []
    interpreted = is_interpreted(pred)
    if pred.device.type != "cuda" and not interpreted:
        reasons.append(f"needs CUDA tensors; pred is on {pred.device}")
    dtypes = (torch.float32, torch.float16) if interpreted else (torch.float32, torch.float16, torch.bfloat16)
    if pred.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        where = " under Triton's interpreter" if interpreted else ""
        reasons.append(f"needs {names}{where}; pred is {pred.dtype}")
    return reasons or refuse_machine(pred.device)


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
