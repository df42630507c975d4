"""Calls of ``pairwise_error`` whose launches are compiled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from launches.case import Case, empty

from weft.kernels.pairwise_error.bwd import pairwise_error_bwd
from weft.kernels.pairwise_error.fwd import pairwise_error_fwd


@dataclass(frozen=True)
class Predictions(Case):
    """Predictions of real models, [R, C, channels, h, w], whose launches are compiled, forward and backward."""

    shape: tuple[int, ...]
    dtype: str = "bfloat16"
    channels_last: bool = False
    wanted: tuple[bool, bool] = (True, False)

    def run(self) -> None:
        pred = empty(*self.shape, dtype=getattr(torch, self.dtype))
        target = pred[:, 0]
        if self.channels_last:
            pred = pred.movedim(2, -1).contiguous().movedim(-1, 2)
        error = pairwise_error_fwd(pred, target)
        pairwise_error_bwd(error, pred, target, self.wanted)


CASES = (
    Predictions("sd15", (4, 4, 4, 64, 64)),
    Predictions("sd15_channels_last", (4, 4, 4, 64, 64), "float16", channels_last=True),
    Predictions("sd3", (16, 16, 16, 64, 64), wanted=(True, True)),
    Predictions("float32", (4, 4, 4, 64, 64), "float32", wanted=(False, True)),
    Predictions("odd", (3, 5, 3, 7, 9), "float32", wanted=(True, True)),
)


def cases(arch: int) -> tuple[Case, ...]:
    """The same for every architecture."""
    return CASES
