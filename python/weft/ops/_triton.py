"""What every Triton backend needs of the machine, asked before Triton is imported."""

from __future__ import annotations

import importlib.metadata
import re
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from weft import _env

OLDEST_TRITON = (3, 2)
OLDEST_ARCH = (8, 0)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# the interpreter computes with bf16 as if it were an integer
_INTERPRETED_DTYPES = (torch.float32, torch.float16)


def is_interpreted(first: Tensor | tuple[Any, ...], *rest: Any) -> bool:
    """Whether a call would run in Triton's interpreter: on the CPU, to check kernels, thousands of times slower.

    Args:
        first: The first of the op's arguments, or a record of them all, whose first gives the device.
    """
    x: Tensor = first[0] if isinstance(first, tuple) else first
    return x.device.type == "cpu" and _env.triton_is_interpreted()


def refuse_tensor(name: str, x: Tensor) -> list[str]:
    """Why the kernels cannot take a tensor of this device and dtype; empty if they can."""
    reasons = []
    interpreted = is_interpreted(x)
    if x.device.type != "cuda" and not interpreted:
        reasons.append(f"needs CUDA tensors; {name} is on {x.device}")
    dtypes = _INTERPRETED_DTYPES if interpreted else _DTYPES
    if x.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        where = " under Triton's interpreter" if interpreted else ""
        reasons.append(f"needs {names}{where}; {name} is {x.dtype}")
    return reasons


def refuse_machine(device: torch.device) -> list[str]:
    """Why this installation or ``device`` cannot run the kernels; empty if they can."""
    reasons = list(_refuse_installation())
    if device.type == "cuda" and torch.cuda.is_available():
        reasons += _refuse_device(device)
    return reasons


@lru_cache(maxsize=1)
def _refuse_installation() -> tuple[str, ...]:
    oldest = ".".join(map(str, OLDEST_TRITON))
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return (f"needs triton >= {oldest}; it is not installed",)
    found = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    return () if found >= OLDEST_TRITON else (f"needs triton >= {oldest}; {version} is installed",)


@lru_cache(maxsize=16)
def _refuse_device(device: torch.device) -> tuple[str, ...]:
    found = torch.cuda.get_device_capability(device)
    if torch.version.hip is not None or found >= OLDEST_ARCH:
        return ()
    return (f"needs compute capability 8.0 or newer; {device} has {found[0]}.{found[1]}",)
