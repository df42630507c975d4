"""Compile the launches of ``pairwise_error`` for a GPU that is not here; prints as ``cross_compile.py`` does."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

import torch
from cross_compile import compiled_launches

from weft.kernels.pairwise_error.bwd import pairwise_error_bwd
from weft.kernels.pairwise_error.fwd import pairwise_error_fwd


@dataclass(frozen=True)
class Case:
    """Predictions of real models, [R, C, channels, h, w], whose launches are compiled, forward and backward."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "bfloat16"
    channels_last: bool = False
    wanted: tuple[bool, bool] = (True, False)

    def run(self) -> None:
        """Launch everything this call would launch, on tensors without memory."""
        pred = torch.empty(self.shape, dtype=getattr(torch, self.dtype), device="meta")
        target = pred[:, 0]
        if self.channels_last:
            pred = pred.movedim(2, -1).contiguous().movedim(-1, 2)
        error = pairwise_error_fwd(pred, target)
        pairwise_error_bwd(error, pred, target, self.wanted)


CASES = (
    Case("sd15", (4, 4, 4, 64, 64)),
    Case("sd15_channels_last", (4, 4, 4, 64, 64), "float16", channels_last=True),
    Case("sd3", (16, 16, 16, 64, 64), wanted=(True, True)),
    Case("float32", (4, 4, 4, 64, 64), "float32", wanted=(False, True)),
    Case("odd", (3, 5, 3, 7, 9), "float32", wanted=(True, True)),
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
