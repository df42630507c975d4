"""Compile the launches of ``lowrank_linear`` for a GPU that is not here; prints as ``cross_compile.py`` does."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

import torch
from cross_compile import compiled_launches

from weft.kernels.lowrank_linear import host
from weft.kernels.lowrank_linear.bwd import lowrank_linear_bwd
from weft.kernels.lowrank_linear.fwd import lowrank_linear_fwd
from weft.kernels.lowrank_linear.host import Call

WANTED = ("x", "weight", "bias", "down", "up", "gate")


@dataclass(frozen=True)
class Case:
    """One call whose launches are compiled: the shape of a real layer, forward and backward.

    ``image`` is proj_out of Stable Diffusion 1: a residual and a result in NCHW.
    """

    name: str
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
        """Launch everything this call would launch, on tensors without memory."""
        dtype = getattr(torch, self.dtype)

        def empty(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device="meta")

        total = sum(self.ranks)
        addend = empty(self.samples, self.width_out, self.rows).transpose(1, 2)
        if not self.image:
            addend = empty(self.samples, self.rows, self.width_out)
        call = Call(
            empty(self.samples, self.rows, self.width_in),
            None if self.on_base else empty(self.width_out, self.width_in),
            None if self.on_base else empty(self.width_out),
            empty(total, self.width_in) if total else None,
            empty(self.width_out, total) if total else None,
            self.ranks,
            empty(self.samples, self.rows, len(self.ranks)).float() if total and self.gated else None,
            addend,
            addend if self.on_base else None,
            forced_form=self.form,
        )
        lowrank_linear_fwd(call, channels_first=self.image)
        if self.backward:
            wanted = dict.fromkeys(WANTED, True)
            wanted |= {"weight": not self.on_base, "bias": not self.on_base, "gate": call.gate is not None}
            lowrank_linear_bwd(call, addend, wanted)


FOUR = (16,) * 4
CASES = (
    Case("sd15_64", 2, 4096, 320, 320, FOUR, "recompute", image=True, backward=True),
    Case("sd15_64_append", 2, 4096, 320, 320, FOUR, "append", image=True),
    Case("sd15_32", 2, 1024, 640, 640, FOUR, "recompute", image=True),
    Case("sd15_16", 2, 256, 1280, 1280, FOUR, "recompute", image=True),
    Case("sd15_alone", 2, 4096, 320, 320, (), image=True),
    Case("sdxl_64", 2, 4096, 640, 640, FOUR, "recompute"),
    Case("sdxl_64_append", 2, 4096, 640, 640, FOUR, "append", backward=True),
    Case("sdxl_lora", 2, 4096, 640, 640, (32,), "recompute", gated=False),
    Case("flux", 1, 4608, 3072, 3072, FOUR, "append"),
    Case("flux_recompute", 1, 4608, 3072, 3072, FOUR, "recompute"),
    Case("flux_alone", 1, 4608, 3072, 3072, ()),
    Case("many_concepts", 4, 1024, 1280, 1280, (16,) * 64),
    Case("on_base", 2, 4096, 640, 640, FOUR, on_base=True, backward=True),
    Case("on_base_many", 2, 1024, 1280, 1280, (16,) * 16, on_base=True),
    Case("text_keys", 2, 77, 2048, 1280, (4, 8, 4), dtype="float16"),
    Case("float32", 2, 1024, 640, 640, FOUR, "recompute", dtype="float32", backward=True),
    Case("float32_append", 2, 1024, 640, 640, FOUR, "append", dtype="float32"),
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
