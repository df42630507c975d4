"""How often a block of a UNet halves the latent, and the grid of pixels that it therefore works on."""

from __future__ import annotations

import re
from typing import Any

_BLOCK = re.compile(r"(?:.*\.)?(?P<part>down_blocks|mid_block|up_blocks)(\.(?P<number>\d+))?\.")


def is_in_a_block(name: str) -> bool:
    """Whether the module of this path belongs to the blocks of a UNet."""
    return _BLOCK.match(name) is not None


def level_of(model: Any, name: str) -> int:
    """How often the latent was halved before the module ``name``; 0 is the latent's own resolution."""
    block = _BLOCK.match(name)
    assert block is not None
    deepest = len(model.down_blocks) - 1  # the last down block halves nothing, so the middle is as deep
    number = int(block["number"] or 0)
    return {"down_blocks": number, "mid_block": deepest, "up_blocks": deepest - number}[block["part"]]


def grid_at(level: int, latent_size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) at ``level`` for a latent of ``latent_size`` = (h, w)."""
    h, w = latent_size
    for _ in range(level):  # a stride-2 convolution rounds an odd side up
        h, w = (h + 1) // 2, (w + 1) // 2
    return h, w
