"""What every CUDA C++ backend needs of the machine: a build with CUDA, a driver for it, and code for the device."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import torch

from weft._native_loader import native_or_none, why_not_native

OLDEST_ARCH = (8, 0)
HOW_TO_BUILD = "install weft again with nvcc on PATH and WEFT_CUDA=1"

Version = tuple[int, int]


@functools.cache
def refuse_machine(device: int) -> tuple[str, ...]:
    """Why this build of ``weft._native`` cannot run on a device; empty if it can. Neither changes in a process."""
    module = native_or_none()
    if module is None:
        return (str(why_not_native()),)
    built = module.build_info()
    if built["cuda"] is None:
        return (f"weft._native is built without CUDA; {HOW_TO_BUILD}",)
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_ARCH:
        return (f"needs compute capability {_dotted(OLDEST_ARCH)}; device {device} has {_dotted(capability)}",)
    driver = driver_version()
    if isinstance(driver, str):
        return (driver,)
    toolkit, minor = (int(number) for number in built["cuda"].split("."))
    reasons = refuse_build((toolkit, minor), built["cuda_archs"], driver, capability)
    return tuple(f"{reason}; device {device} has compute capability {_dotted(capability)}" for reason in reasons)


def driver_version() -> Version | str:
    """The newest CUDA that the driver takes, or why there is none; of a build with CUDA alone."""
    module = native_or_none()
    assert module is not None
    try:
        number = module.cuda_driver_version()
    except RuntimeError as error:
        return f"the CUDA runtime does not know its driver: {error}"
    return (number // 1000, number % 1000 // 10) if number else "needs an NVIDIA driver; there is none"


def refuse_build(toolkit: Version, archs: Sequence[str], driver: Version, capability: Version) -> list[str]:
    """Why code that was built so cannot run on such a device with such a driver; empty if it can.

    Args:
        toolkit: CUDA that the code was compiled with; its runtime is linked in.
        archs: What it was compiled for, such as "80", "90a" and "90+PTX".
        driver: The newest CUDA that the driver takes.
        capability: Of the device.

    Source:
        CUDA C++ Programming Guide, "Binary Compatibility", "PTX Compatibility"; CUDA Compatibility, "Minor Version
        Compatibility".
    """
    if toolkit[0] > driver[0]:
        return [
            f"is built with CUDA {_dotted(toolkit)}, and the driver takes CUDA {_dotted(driver)} at most: update the "
            f"driver, or install weft again with nvcc of CUDA {driver[0]}"
        ]
    if any(_runs(arch, capability) for arch in archs):
        return []
    number = "".join(map(str, capability))
    if not any(_compiles(arch, capability) for arch in archs):
        return [f"is built for sm {' '.join(archs)}: install weft again with WEFT_CUDA_ARCHS={number}"]
    if toolkit > driver:
        return [
            f"has no code for the device but PTX of CUDA {_dotted(toolkit)}, and the driver compiles that of CUDA "
            f"{_dotted(driver)} at most: update the driver, or install weft again with WEFT_CUDA_ARCHS={number}"
        ]
    return []


def _runs(arch: str, capability: Version) -> bool:
    """Whether machine code runs: on its own architecture and later minor versions, if it uses nothing of one alone."""
    of, suffix, _ = _parse(arch)
    return capability == of if suffix == "a" else capability[0] == of[0] and capability >= of


def _compiles(arch: str, capability: Version) -> bool:
    """Whether the driver can compile what is in PTX: for every later device, if it uses nothing of one alone."""
    of, suffix, has_ptx = _parse(arch)
    return has_ptx and (_runs(arch, capability) if suffix else capability >= of)


def _parse(arch: str) -> tuple[Version, str, bool]:
    match = re.fullmatch(r"(\d+)(\d)([af]?)(\+PTX)?", arch)
    assert match is not None, arch
    return (int(match[1]), int(match[2])), match[3], match[4] is not None


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
