"""Losses of ``contrastive_loss`` whose launches are compiled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from launches.case import Case, empty

from weft.kernels.contrastive_loss.arguments import Segment
from weft.kernels.contrastive_loss.bwd import Factors, contrastive_loss_bwd
from weft.kernels.contrastive_loss.fwd import contrastive_loss_fwd
from weft.kernels.contrastive_loss.host import Call


@dataclass(frozen=True)
class Loss(Case):
    """One loss whose launches are compiled, forward and backward."""

    rows: int
    columns: int
    width: int
    symmetric: bool = False
    excludes: bool = False
    has_classes: bool = False
    dtype: str = "bfloat16"
    learns_temperature: bool = True

    def run(self) -> None:

        dtype, ids = getattr(torch, self.dtype), {"dtype": torch.int64}
        segment = Segment(
            empty(self.columns, self.width, dtype=dtype),
            empty(),
            empty(3, self.rows, **ids),
            empty(3, self.columns, **ids),
            self.excludes,
            self.has_classes,
            self.symmetric,
        )
        call = Call(empty(self.rows, self.width, dtype=dtype), segment)
        contrastive_loss_fwd(call)
        factors = Factors(empty(3, self.rows), empty(3, self.columns) if self.symmetric else None, empty())
        drows, dcolumns = empty(self.rows, self.width), empty(self.columns, self.width)
        contrastive_loss_bwd(call, factors, drows, dcolumns, self.learns_temperature)


CASES = (
    Loss("clip_512", 4096, 4096, 512, symmetric=True),
    Loss("clip_768", 4096, 4096, 768, symmetric=True, has_classes=True),
    Loss("clip_ranks", 1024, 8192, 1024),
    Loss("nt_xent", 2048, 2048, 128, excludes=True, learns_temperature=False),
    Loss("everything", 4000, 3000, 100, symmetric=True, excludes=True, has_classes=True),
    Loss("fp16", 4096, 4096, 512, symmetric=True, dtype="float16"),
    Loss("fp32", 2048, 2048, 256, symmetric=True, dtype="float32"),
    Loss("few_rows", 24, 48, 256, symmetric=True, excludes=True),
)


def cases(arch: int) -> tuple[Case, ...]:
    """The same for every architecture."""
    return CASES
