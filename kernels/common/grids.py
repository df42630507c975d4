"""How many programs a launch has, and whose rows of a launch table serve a device: plain arithmetic."""

from __future__ import annotations

# a grid below this leaves processors idle: two programs for each of the 132 of an H100
MIN_PROGRAMS = 264
# tensor cores want 16 in every axis of a product
MIN_BLOCK = 16

# architectures with rows for every call; those of its stand-in serve another, and an unknown one takes those that need
# the least shared memory
COMPLETE_ARCHS = (80, 86, 90)
STAND_INS = {89: 86, 100: 90, 120: 86}
SMALLEST_ARCH = 86


def stand_in(arch: int) -> int:
    """The architecture whose rows serve every call on ``arch``: itself where its own are complete."""
    return arch if arch in COMPLETE_ARCHS else STAND_INS.get(arch, SMALLEST_ARCH)


def power_of_two(length: int, least: int = MIN_BLOCK) -> int:
    """The smallest power of two that holds ``length``, at least ``least``."""
    return max(least, 1 << (max(length, 1) - 1).bit_length())


def ceil_div(length: int, block: int) -> int:
    """Blocks that cover ``length``."""
    return -(-length // block)


def choose_splits(programs: int, steps: int) -> int:
    """Parts into which a sum of ``steps`` is cut, where ``programs`` alone would leave the device idle."""
    return max(1, min(steps, ceil_div(MIN_PROGRAMS, max(programs, 1))))
