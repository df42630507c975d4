"""The device of a launch: its architecture, and the one way to queue a Triton kernel on it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from weft.kernels.common import capture

# what the interpreter, which has no device, is tiled like
INTERPRETED_ARCH = 86
# CUDA's bound for the first axis of a grid; that of the other two, 65535, is within reach of a batch
MAX_PROGRAMS = 2**31 - 1


@lru_cache(maxsize=64)
def device_arch(device: torch.device) -> int:
    """Compute capability without its point; a stand-in on the CPU, where only the interpreter runs."""
    if device.type != "cuda":
        return INTERPRETED_ARCH
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def run(kernel: Any, programs: int, /, *arguments: Any, **named: Any) -> None:
    """Queue a Triton kernel on the current stream of the device that its tensors lie on.

    Triton itself launches on the current device, whatever its arguments. Every launch goes through here.

    Args:
        kernel: What ``triton.jit`` made.
        programs: How many; grids have one axis, which the kernel divides by itself.
        arguments, named: Of the kernel, at least one of them a tensor.

    Raises:
        ValueError: There are more programs than a grid holds.
        RuntimeError: The kernel would be loaded while a CUDA graph is captured.
    """
    if programs > MAX_PROGRAMS:
        name = kernel.__name__.strip("_")
        raise ValueError(
            f"{name}: a launch has at most {MAX_PROGRAMS} programs; this call needs {programs}: split the batch"
        )
    device = next(x.device for x in (*arguments, *named.values()) if isinstance(x, Tensor))
    if device.type != "cuda":
        kernel[(programs,)](*arguments, **named)
        return
    with torch.cuda.device(device):
        if torch.cuda.is_current_stream_capturing():
            _refuse_first_call(kernel, programs, arguments, named)
        kernel[(programs,)](*arguments, **named)


def _refuse_first_call(kernel: Any, programs: int, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Raise unless the kernel is on the device already: CUDA loads no module while a stream is captured."""
    compiled = kernel.warmup(*arguments, grid=(programs,), **named)
    if compiled is None or compiled.module is None:
        raise RuntimeError(capture.first_call(kernel.__name__.strip("_")))
