"""Ranges of the numbers that commands share, by the name of the option; checked before anything is loaded."""

from __future__ import annotations

import math
from typing import Any

_AT_LEAST_ONE = ("steps", "images", "repeats", "reuse", "height", "width")
_MOST_IMAGES = 4096  # of one prompt, which are drawn in one batch
_LONGEST = 16384  # pixels of a side; beyond, systems that overcommit memory kill a process rather than refuse it
_SEEDS = 2**63  # what torch's generators take


def check_numbers(options: Any, *, who: str) -> None:
    """Refuse numbers of ``options`` that no command of these names can mean; what is None was not given.

    Raises:
        ValueError: One is out of its range.
    """
    # --images of some commands are files
    given = {name: value for name, value in vars(options).items() if isinstance(value, (int, float))}
    for name in _AT_LEAST_ONE:
        if given.get(name, 1) < 1:
            raise ValueError(f"{who}: --{name} must be at least 1; got {given[name]}")
    for name in ("height", "width"):
        if given.get(name, 1) > _LONGEST:
            raise ValueError(f"{who}: --{name} must be at most {_LONGEST} pixels; got {given[name]}")
    if given.get("images", 1) > _MOST_IMAGES:
        raise ValueError(
            f"{who}: --images must be at most {_MOST_IMAGES}, which are drawn at once; got {given['images']}; run "
            "again with another --seed for more"
        )
    seed = given.get("seed", 0)
    if seed < 0:
        raise ValueError(f"{who}: --seed must not be negative; got {seed}")
    if seed + given.get("images", 1) > _SEEDS:
        raise ValueError(f"{who}: --seed must be below 2 ** 63, with every picture's; got {seed}")
    if not math.isfinite(given.get("guidance_scale", 1.0)):
        raise ValueError(f"{who}: --guidance-scale must be finite; got {given['guidance_scale']}")
