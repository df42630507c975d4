"""Compile the launches of ``regions`` for a GPU that is not here; prints as ``cross_compile.py`` does."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

import torch
from cross_compile import compiled_launches

from weft.kernels.regions.fwd import best_windows_fwd
from weft.kernels.regions.gate import concept_gate_fwd


@dataclass(frozen=True)
class Search:
    """One search whose launch is compiled. ``exclusion`` None forbids overlap."""

    name: str
    grid: tuple[int, int]
    candidates: int
    exclusion: float | None
    some_absent: bool
    dtype: torch.dtype = torch.float32

    def run(self) -> None:
        """Launch it, on tensors without memory."""
        maps = torch.empty(1, 2, *self.grid, dtype=self.dtype, device="meta")
        candidates = torch.empty(self.candidates, 4, dtype=torch.int32, device="meta")
        present = torch.empty(1, 2, dtype=torch.bool, device="meta") if self.some_absent else None
        best_windows_fwd(maps, candidates, 38, 0.5, self.exclusion, 1, (4, 12), present)


@dataclass(frozen=True)
class Gate:
    """One gate whose launches are compiled: two where several concepts compete."""

    name: str
    cells: int
    concepts: int
    rule: str | float
    dtype: torch.dtype = torch.float32

    def run(self) -> None:
        """Launch it, on tensors without memory."""
        maps = torch.empty(1, self.cells, self.concepts, dtype=self.dtype, device="meta")
        strengths, out = (torch.empty(2, *axes, self.concepts, device="meta") for axes in ((), (self.cells,)))
        concept_gate_fwd(maps, strengths, self.rule, "largest", out)


CASES: tuple[Search | Gate, ...] = (
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


def main() -> None:
    """Print one JSON object a launch: the case's name and its ``Usage``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arch", type=int, help="compute capability without its point: 80, 86, 89, 90, 100, 120")
    arguments = parser.parse_args()
    for case in CASES:
        for usage in compiled_launches(arguments.arch, case.run):
            json.dump({"case": case.name, **asdict(usage)}, sys.stdout)
            print(flush=True)


if __name__ == "__main__":
    main()
