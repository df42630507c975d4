"""Calls of ``regions`` as data. Maps take few values, so that equals are real."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RegionSearch:
    """The arguments of one call of ``best_windows``; maps of small integers, whose sums are exact.

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


@dataclass(frozen=True)
class GateCase:
    """The tensors of one call of ``concept_gate``.

    Attributes:
        samples, cells, concepts: B, N, K.
        values: How many values the maps take, roughly; 1 for maps of at most two, most of them constant where N is
            small.
        repeats: B' / B.
        idle: Whether some strengths are 0.
        seed: Of maps and strengths.
    """

    samples: int
    cells: int
    concepts: int
    values: int = 1000
    repeats: int = 1
    idle: bool = False
    seed: int = 0

    def maps(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """[B, N, K]."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.samples, self.cells, self.concepts)
        values = torch.randint(-self.values // 2, self.values, shape, generator=generator)
        return (values / self.values).to(device=device, dtype=dtype)

    def strengths(self, device: torch.device | str = "cpu") -> Tensor:
        """[B', K] float32, a quarter of them negative."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        drawn = torch.rand(self.samples * self.repeats, self.concepts, generator=generator) - 0.25
        return (torch.where(drawn.abs() < 0.3, 0.0, drawn) if self.idle else drawn).to(device)
