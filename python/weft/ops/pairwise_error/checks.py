"""What ``pairwise_error`` and ``bounded_logit`` ask of their arguments."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from weft.ops._tensors import FLOAT_DTYPES, check_tensor
from weft.ops._tensors import dtype_name as _name


def check_pairs(pred: Tensor, target: Tensor) -> None:
    """Types, axes, dtypes and devices of predictions and targets."""
    for name, x in (("pred", pred), ("target", target)):
        check_tensor("pairwise_error", name, x)
        if x.dtype not in FLOAT_DTYPES:
            raise TypeError(
                f"pairwise_error: `{name}` must be float32, bfloat16, float16 or float64; got {_name(x.dtype)}"
            )
    if pred.ndim < 3 or min(pred.shape) < 1:
        raise ValueError(f"pairwise_error: `pred` must be [R, C, ...], no axis empty; got {list(pred.shape)}")
    if target.shape != (pred.shape[0], *pred.shape[2:]):
        expected = [pred.shape[0], *pred.shape[2:]]
        raise ValueError(
            f"pairwise_error: `target` must be [R, ...] = {expected} to match pred {list(pred.shape)}; "
            f"got {list(target.shape)}"
        )
    if target.dtype != pred.dtype:
        raise TypeError(
            f"pairwise_error: `target` must have the dtype of pred, {_name(pred.dtype)}; got {_name(target.dtype)}; "
            f"convert it with .to(pred.dtype)"
        )
    if target.device != pred.device:
        raise ValueError(f"pairwise_error: `target` must be on the device of pred, {pred.device}; got {target.device}")


def check_logit(error: Tensor, scale: Any, width: Any) -> None:
    """An error, and constants that make a logit of it."""
    check_tensor("bounded_logit", "error", error)
    if error.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"bounded_logit: `error` must be float32, bfloat16, float16 or float64; got {_name(error.dtype)}"
        )
    for name, value in (("scale", scale), ("width", width)):
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"bounded_logit: `{name}` must be one number; got {list(value.shape)}")
        elif not isinstance(value, (int, float)) or isinstance(value, bool):
            raise TypeError(f"bounded_logit: `{name}` must be a number or a tensor; got {type(value).__name__}")
        elif not 0 < value < math.inf:
            raise ValueError(f"bounded_logit: `{name}` must be above 0 and finite; got {value}")
