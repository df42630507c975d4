"""Searches and gates of ``regions`` whose launches are compiled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from launches.case import Case, empty

from weft.kernels.regions import reference
from weft.kernels.regions.fwd import best_windows_fwd
from weft.kernels.regions.gate import concept_gate_fwd


@dataclass(frozen=True)
class Search(Case):
    """One search whose launch is compiled. ``exclusion`` None forbids overlap."""

    grid: tuple[int, int]
    candidates: int
    exclusion: float | None
    some_absent: bool
    dtype: torch.dtype = torch.float32

    def run(self) -> None:
        maps = empty(1, 2, *self.grid, dtype=self.dtype)
        candidates = empty(self.candidates, 4, dtype=torch.int32)
        present = empty(1, 2, dtype=torch.bool) if self.some_absent else None
        call = reference.Search(maps, ((4, 12),), 0, 38, 0.5, self.exclusion, 1, (4, 12), present)
        best_windows_fwd(call, candidates)


@dataclass(frozen=True)
class Gate(Case):
    """One gate whose launches are compiled: two where several concepts compete."""

    cells: int
    concepts: int
    rule: str | float
    dtype: torch.dtype = torch.float32

    def run(self) -> None:
        maps = empty(1, self.cells, self.concepts, dtype=self.dtype)
        strengths, out = (empty(2, *axes, self.concepts) for axes in ((), (self.cells,)))
        concept_gate_fwd(maps, strengths, self.rule, "largest", out)


CASES: tuple[Case, ...] = (
    Search("sd15_released", (16, 16), 292, -2.0, some_absent=False),
    Search("sd15_clean", (16, 16), 402, None, some_absent=True),
    Search("sdxl_clean", (32, 32), 4000, None, some_absent=True),
    Search("wide_clean", (24, 40), 4000, None, some_absent=True, dtype=torch.bfloat16),
    Search("largest_released", (64, 64), 30000, -2.0, some_absent=False, dtype=torch.float64),
    Gate("sd15_8_median", 64, 1, "median"),
    Gate("sd15_64_median", 4096, 1, "median", dtype=torch.float16),
    Gate("sd15_64_otsu", 4096, 2, "otsu", dtype=torch.bfloat16),
    Gate("largest_median", 16384, 64, "median"),
    Gate("largest_otsu", 16384, 1, "otsu"),
    Gate("largest_level", 16384, 64, 0.4),
)


def cases(arch: int) -> tuple[Case, ...]:
    """The same for every architecture."""
    return CASES
