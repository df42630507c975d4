"""What is known of the GPU: name, driver, cache, and its clocks and temperature as they were found."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import torch

from benchmarks.registry import Call

# as nvidia-smi calls them, and as records do
STATE = {
    "clocks.sm": "sm_mhz",
    "clocks.mem": "memory_mhz",
    "clocks.max.sm": "sm_mhz_limit",
    "temperature.gpu": "temperature_c",
    "power.draw": "power_w",
    "power.limit": "power_w_limit",
    "clocks_throttle_reasons.active": "throttle",
}
# of an H100, for a torch that does not report it
USUAL_L2_BYTES = 50 << 20


def facts() -> dict[str, Any]:
    """What does not change while a program runs."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "device_type": "cuda",
        "capability": f"{properties.major}.{properties.minor}",
        "processors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": l2_bytes(properties),
        "driver": (_ask("driver_version") or [None])[0],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def l2_bytes(properties: Any) -> int:
    return int(getattr(properties, "L2_cache_size", 0)) or USUAL_L2_BYTES


def state() -> dict[str, Any]:
    """Clocks in MHz, temperature in degrees, power in watts, now; empty where nvidia-smi does not say."""
    found = _ask(*STATE)
    return read_state(found) if found else {}


def read_state(values: list[str]) -> dict[str, Any]:
    """The answer of nvidia-smi, in the order of ``STATE``; numbers where they are numbers."""
    numbers = {}
    for name, value in zip(STATE.values(), values, strict=True):
        numbers[name] = float(value) if re.fullmatch(r"-?\d+(\.\d+)?", value) else value
    return numbers


def slug(name: str) -> str:
    """A device's name for a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def peak_extra_bytes(call: Call, result_bytes: int) -> int:
    """The largest growth of the allocator's memory while ``call`` runs, beyond its result."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del result
    return max(peak - before - result_bytes, 0)


def _ask(*names: str) -> list[str]:
    """Values of the first GPU, [] where there is no nvidia-smi or it refuses."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return [value.strip() for value in ran.stdout.strip().split(",")] if ran.returncode == 0 else []
