"""Compile the launches of ``contrastive_loss`` for a GPU that is not here; prints as ``cross_compile.py`` does."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

import torch
from cross_compile import compiled_launches

from weft.kernels.contrastive_loss import host
from weft.kernels.contrastive_loss.bwd import Factors, contrastive_loss_bwd
from weft.kernels.contrastive_loss.fwd import contrastive_loss_fwd
from weft.kernels.contrastive_loss.host import Call


@dataclass(frozen=True)
class Case:
    """One loss whose launches are compiled, forward and backward."""

    name: str
    rows: int
    columns: int
    width: int
    symmetric: bool = False
    excludes: bool = False
    has_classes: bool = False
    dtype: str = "bfloat16"
    learns_temperature: bool = True

    def run(self) -> None:
        """Launch everything this call would launch, on tensors without memory."""

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device="meta")

        dtype, ids = getattr(torch, self.dtype), {"dtype": torch.int64}
        call = Call(
            empty(self.rows, self.width, dtype=dtype),
            empty(self.columns, self.width, dtype=dtype),
            empty(),
            empty(3, self.rows, **ids),
            empty(3, self.columns, **ids),
            self.excludes,
            self.has_classes,
            self.symmetric,
        )
        contrastive_loss_fwd(call)
        factors = Factors(empty(3, self.rows), empty(3, self.columns) if self.symmetric else None, empty())
        drows, dcolumns = empty(self.rows, self.width), empty(self.columns, self.width)
        contrastive_loss_bwd(call, factors, drows, dcolumns, self.learns_temperature)


CASES = (
    Case("clip_512", 4096, 4096, 512, symmetric=True),
    Case("clip_768", 4096, 4096, 768, symmetric=True, has_classes=True),
    Case("clip_ranks", 1024, 8192, 1024),
    Case("nt_xent", 2048, 2048, 128, excludes=True, learns_temperature=False),
    Case("everything", 4000, 3000, 100, symmetric=True, excludes=True, has_classes=True),
    Case("fp16", 4096, 4096, 512, symmetric=True, dtype="float16"),
    Case("fp32", 2048, 2048, 256, symmetric=True, dtype="float32"),
    Case("few_rows", 24, 48, 256, symmetric=True, excludes=True),
)


def main() -> None:
    """Print one JSON object a launch: the case's name and its ``Usage``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arch", type=int, help="compute capability without its point: 80, 86, 89, 90, 100, 120")
    parser.add_argument("cases", nargs="*", help="names of cases; all by default")
    arguments = parser.parse_args()
    host.device_arch = lambda device: arguments.arch
    for case in CASES:
        if not arguments.cases or case.name in arguments.cases:
            for usage in compiled_launches(arguments.arch, case.run):
                json.dump({"case": case.name, **asdict(usage)}, sys.stdout)
                print(flush=True)


if __name__ == "__main__":
    main()
