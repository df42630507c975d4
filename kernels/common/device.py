"""What every Triton launcher asks of a device."""

from __future__ import annotations

from functools import lru_cache

import torch

# what the interpreter, which has no device, is tiled like
INTERPRETED_ARCH = 86


@lru_cache(maxsize=64)
def device_arch(device: torch.device) -> int:
    """Compute capability without its point; a stand-in on the CPU, where only the interpreter runs."""
    if device.type != "cuda":
        return INTERPRETED_ARCH
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
