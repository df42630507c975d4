"""Calls of ``lowrank_linear`` whose launches are compiled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from launches.case import Case, empty

from weft.kernels.lowrank_linear.arguments import Arguments
from weft.kernels.lowrank_linear.bwd import lowrank_linear_bwd
from weft.kernels.lowrank_linear.fwd import lowrank_linear_fwd
from weft.kernels.lowrank_linear.host import Call

WANTED = ("x", "weight", "bias", "down", "up", "gate")


@dataclass(frozen=True)
class Projection(Case):
    """One call whose launches are compiled: the shape of a real layer, forward and backward.

    ``image`` is proj_out of Stable Diffusion 1: a residual and a result in NCHW.
    """

    samples: int
    rows: int
    width_in: int
    width_out: int
    ranks: tuple[int, ...]
    form: str | None = None
    image: bool = False
    on_base: bool = False
    gated: bool = True
    dtype: str = "bfloat16"
    backward: bool = False

    def run(self) -> None:
        empty_like_x = partial(empty, dtype=getattr(torch, self.dtype))
        total = sum(self.ranks)
        addend = empty_like_x(self.samples, self.width_out, self.rows).transpose(1, 2)
        if not self.image:
            addend = empty_like_x(self.samples, self.rows, self.width_out)
        given = Arguments(
            empty_like_x(self.samples, self.rows, self.width_in),
            None if self.on_base else empty_like_x(self.width_out, self.width_in),
            None if self.on_base else empty_like_x(self.width_out),
            empty_like_x(total, self.width_in) if total else None,
            empty_like_x(self.width_out, total) if total else None,
            self.ranks,
            empty(self.samples, self.rows, len(self.ranks)) if total and self.gated else None,
            addend,
            addend if self.on_base else None,
            self.image,
        )
        call = Call(given, forced_form=self.form)
        lowrank_linear_fwd(call)
        if self.backward:
            wanted = dict.fromkeys(WANTED, True)
            wanted |= {"weight": not self.on_base, "bias": not self.on_base, "gate": given.gate is not None}
            lowrank_linear_bwd(call, addend, wanted)


FOUR = (16,) * 4
CASES = (
    Projection("sd15_64", 2, 4096, 320, 320, FOUR, "recompute", image=True, backward=True),
    Projection("sd15_64_append", 2, 4096, 320, 320, FOUR, "append", image=True),
    Projection("sd15_32", 2, 1024, 640, 640, FOUR, "recompute", image=True),
    Projection("sd15_16", 2, 256, 1280, 1280, FOUR, "recompute", image=True),
    Projection("sd15_alone", 2, 4096, 320, 320, (), image=True),
    Projection("sdxl_64", 2, 4096, 640, 640, FOUR, "recompute"),
    Projection("sdxl_64_append", 2, 4096, 640, 640, FOUR, "append", backward=True),
    Projection("sdxl_lora", 2, 4096, 640, 640, (32,), "recompute", gated=False),
    Projection("flux", 1, 4608, 3072, 3072, FOUR, "append"),
    Projection("flux_recompute", 1, 4608, 3072, 3072, FOUR, "recompute"),
    Projection("flux_alone", 1, 4608, 3072, 3072, ()),
    Projection("many_concepts", 4, 1024, 1280, 1280, (16,) * 64),
    Projection("on_base", 2, 4096, 640, 640, FOUR, on_base=True, backward=True),
    Projection("on_base_many", 2, 1024, 1280, 1280, (16,) * 16, on_base=True),
    Projection("text_keys", 2, 77, 2048, 1280, (4, 8, 4), dtype="float16"),
    Projection("float32", 2, 1024, 640, 640, FOUR, "recompute", dtype="float32", backward=True),
    Projection("float32_append", 2, 1024, 640, 640, FOUR, "append", dtype="float32"),
)


def cases(arch: int) -> tuple[Case, ...]:
    """The same for every architecture."""
    return CASES
