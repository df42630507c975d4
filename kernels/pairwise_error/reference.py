"""The definition of ``pairwise_error`` in plain PyTorch, and its gradients. Every other backend answers to this file.

Differences are taken, squared and summed in fp32, or fp64 for fp64 input.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_error_reference(pred: Tensor, target: Tensor) -> Tensor:
    """Compare the prediction of each (row, column) with the target of its row.

        e_rc = mean over the rest of (pred_rc - target_r)^2

    Args:
        pred: [R, C, ...], any float dtype.
        target: [R, ...], the same rest.

    Returns:
        [R, C], fp32, or fp64 for fp64 input.

    Source:
        SoftREPA (arXiv:2503.08250): rows are images, columns the captions that they are denoised under; its code
        takes the mean over channels and pixels.
    """
    return _difference(pred, target).square().flatten(2).mean(2)


def pairwise_error_backward_reference(
    derror: Tensor, pred: Tensor, target: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Gradients of ``pairwise_error_reference`` for the gradient ``derror`` at its result.

        dpred_rc = derror_rc * 2 / n * (pred_rc - target_r)        dtarget_r = - sum over c of dpred_rc

    Args:
        derror: [R, C].
        pred, target: As in ``pairwise_error_reference``, n values a pair.
        wanted: Whether dpred, and whether dtarget is asked for.

    Returns:
        dpred and dtarget, each shaped and laid out as its input and in its dtype; [0] where it is not wanted.
    """
    dpred = _difference(pred, target) * (derror * (2 / target[0].numel())).view(*derror.shape, *[1] * (pred.ndim - 2))
    return (
        torch.empty_like(pred).copy_(dpred) if wanted[0] else pred.new_empty(0),
        torch.empty_like(target).copy_(-dpred.sum(1)) if wanted[1] else target.new_empty(0),
    )


def _difference(pred: Tensor, target: Tensor) -> Tensor:
    wide = torch.promote_types(pred.dtype, torch.float32)
    return pred.to(wide) - target.to(wide)[:, None]
