"""One call of ``regions.best_windows`` as data, with maps of small integers: equals are real, and sums exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RegionSearch:
    """The arguments of one search.

    Attributes:
        samples, objects, grid: B, n, (h, w).
        sizes, margin, protect_share, protect_factor, exclusion, gap, fallback: As ``best_windows`` takes them.
        some_absent: Whether ``present`` is given, with two fifths of the objects absent.
        span: Smallest and largest value of the maps, both integers.
        seed: Of the maps and of ``present``.
    """

    samples: int
    objects: int
    grid: tuple[int, int]
    sizes: tuple[tuple[int, int], ...]
    margin: int = 0
    protect_share: float = 0.15
    protect_factor: float = 0.5
    exclusion: str | float = "forbid"
    gap: int = 0
    fallback: str = "empty"
    some_absent: bool = False
    span: tuple[int, int] = (-50, 100)
    seed: int = 0

    def maps(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """[B, n, h, w]."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.samples, self.objects, *self.grid)
        values = torch.randint(self.span[0], self.span[1] + 1, shape, generator=generator)
        return values.to(device=device, dtype=dtype)

    def present(self, device: torch.device | str = "cpu") -> Tensor | None:
        """bool [B, n], or None."""
        if not self.some_absent:
            return None
        generator = torch.Generator().manual_seed(self.seed + 1)
        return (torch.rand(self.samples, self.objects, generator=generator) < 0.6).to(device)

    def options(self) -> dict[str, Any]:
        """The keyword arguments other than ``present``."""
        names = ("margin", "protect_share", "protect_factor", "exclusion", "gap", "fallback")
        return {name: getattr(self, name) for name in names}
