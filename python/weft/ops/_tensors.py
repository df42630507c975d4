"""The requirements on tensors that all ops share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# others lack most operations of torch
INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_tensor(op: str, name: str, x: Any, what: str = "a tensor") -> None:
    """A tensor whose values lie in memory by strides, since backends walk along these.

    Raises:
        TypeError: It is no tensor, or a sparse, nested or packed one.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: `{name}` must be {what}; got {type(x).__name__}")
    if x.layout != torch.strided or x.is_nested:
        found = "a nested tensor" if x.is_nested else str(x.layout).removeprefix("torch.")
        advice = "pad it with .to_padded_tensor(0)" if x.is_nested else "convert it with .to_dense()"
        raise TypeError(f"{op}: `{name}` must be dense, its values in memory by strides; got {found}; {advice}")


def readable(x: Tensor) -> Tensor | None:
    """``x`` with values that Python can read, of all samples inside ``torch.vmap``; None where there are none."""
    if torch.compiler.is_compiling():
        return None
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return None if x.is_meta or isinstance(x, FakeTensor) else x


def dtype_name(dtype: torch.dtype) -> str:
    """As users write it after ``torch.``."""
    return str(dtype).removeprefix("torch.")
