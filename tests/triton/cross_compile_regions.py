"""Compile the launch of ``best_windows`` for a GPU that is not here; prints as ``cross_compile.py`` does."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

import torch
from cross_compile import compiled_launches

from weft.kernels.regions.fwd import best_windows_fwd


@dataclass(frozen=True)
class Case:
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


CASES = (
    Case("sd15_released", (16, 16), 292, -2.0, some_absent=False),
    Case("sd15_clean", (16, 16), 402, None, some_absent=True),
    Case("sdxl_clean", (32, 32), 4000, None, some_absent=True),
    Case("wide_clean", (24, 40), 4000, None, some_absent=True, dtype=torch.bfloat16),
    Case("largest_released", (64, 64), 30000, -2.0, some_absent=False, dtype=torch.float64),
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
