"""How each op takes part in ``torch.autocast``: as the operation of torch that it stands for.

``torch.library.register_autocast`` would not do: it casts every tensor of an op, tables and gates too, and to a dtype
that is fixed when the op is registered rather than to that of the block.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from functools import reduce, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from weft.ops.contrastive_loss import Columns

P = ParamSpec("P")
R = TypeVar("R")


class Cast(Enum):
    """What becomes of an argument in a block of autocast; float64 stays float64, as in torch."""

    LOWER = "the dtype of the block, as torch casts for matmul, linear and scaled_dot_product_attention"
    FLOAT32 = "float32, as torch casts for softmax and losses"
    WIDEST = "the widest dtype among the arguments of this kind, as torch casts for dot and cat"


# Losses are WIDEST where torch's own are FLOAT32: these ops compute in float32 and return it whatever they are given,
# so widening all of their input would copy it and change no bit. An op of whose arguments none is listed keeps all
# as they are.
CASTS: Mapping[str, Mapping[str, Cast]] = {
    "attention": {"q": Cast.LOWER, "k": Cast.LOWER, "v": Cast.LOWER, "readout": Cast.FLOAT32},
    "lowrank_linear": {
        **dict.fromkeys(("x", "weight", "bias", "down", "up", "residual", "base"), Cast.LOWER),
        "gate": Cast.FLOAT32,
    },
    "contrastive_loss": {"rows": Cast.WIDEST, "cols": Cast.WIDEST},
    "pairwise_error": {"pred": Cast.WIDEST, "target": Cast.WIDEST},
    "regions": {},
}


# asked once: torch.compile of torch 2.6 cannot look into the question
_DEVICES = frozenset(
    name for name in ("cpu", "cuda", "hpu", "mps", "mtia", "xpu") if torch.amp.is_autocast_available(name)
)


def follows_autocast(op: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Cast the arguments of a public function as ``CASTS`` says for ``op``; nothing inside it is cast again."""
    casts = CASTS[op]

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        names = tuple(inspect.signature(function).parameters)

        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            device = _device_of(args, kwargs)
            lower = None if device is None else autocast_dtype(device)
            if device is None or lower is None:
                return function(*args, **kwargs)
            by_place = [casts.get(name) for name in names[: len(args)]]
            by_name = [casts.get(str(name)) for name in kwargs]
            given = _cast([*args, *kwargs.values()], by_place + by_name, device, lower)
            with torch.autocast(device, enabled=False):
                return function(*given[: len(args)], **dict(zip(kwargs, given[len(args) :], strict=True)))

        return wrapper

    return decorate


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` computes in the dtypes of its tensors, also where a block of autocast is around a backward pass."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        device = _device_of(args, kwargs)
        if device is None or autocast_dtype(device) is None:
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return wrapper


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype of the block of autocast in force for a type of device; None outside of such a block."""
    # of a device that autocast does not know, "meta" say, torch refuses to answer
    if device in _DEVICES and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def _device_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """The type of device of the first tensor."""
    for x in (*args, *kwargs.values()):
        if isinstance(x, Tensor):
            return x.device.type
    return None


def _cast(given: list[Any], casts: list[Cast | None], device: str, lower: torch.dtype) -> list[Any]:
    def is_eligible(x: Tensor) -> bool:
        return x.is_floating_point() and x.device.type == device and x.dtype != torch.float64

    compared = [x for value, cast in zip(given, casts, strict=True) if cast is Cast.WIDEST for x in _tensors(value)]
    found = [x.dtype for x in compared if is_eligible(x)]
    widest = reduce(torch.promote_types, found) if found else torch.float32
    dtypes = {Cast.LOWER: lower, Cast.FLOAT32: torch.float32, Cast.WIDEST: widest}

    # rows that are columns, too, stay one tensor: it is normalised once, and its gradient is rounded once
    done: list[tuple[Tensor, Tensor]] = []

    def cast_tensor(x: Tensor, dtype: torch.dtype) -> Tensor:
        if not is_eligible(x) or x.dtype == dtype:
            return x
        for before, after in done:
            if before is x and after.dtype == dtype:
                return after
        done.append((x, x.to(dtype)))
        return done[-1][1]

    def cast_argument(value: Any, cast: Cast | None) -> Any:
        return value if cast is None else _changed(value, lambda x: cast_tensor(x, dtypes[cast]))

    return [cast_argument(value, cast) for value, cast in zip(given, casts, strict=True)]


def _tensors(value: Any) -> list[Tensor]:
    """The features of an argument: a tensor, ``Columns``, or several."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Columns):
        return _tensors(value.values)
    return [x for one in value for x in _tensors(one)] if isinstance(value, (list, tuple)) else []


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with each of its ``_tensors`` changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Columns):
        return replace(value, values=_changed(value.values, change))
    return [_changed(one, change) for one in value] if isinstance(value, (list, tuple)) else value
