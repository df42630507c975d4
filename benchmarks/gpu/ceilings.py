"""What this device can do at all, measured in the same run: bytes copied and bf16 products a second."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from benchmarks.gpu.timing import Clock, prepare, time_passes
from benchmarks.registry import Costs

# many times the L2 cache, and a product that fills the chip
COPIED_BYTES = 1 << 30
MATRIX = 8192


@dataclass(frozen=True)
class Ceilings:
    """Rates of the better of two passes.

    Attributes:
        copy_gb_s: Gigabytes read and written a second by a device-to-device copy.
        matmul_tflop_s: Tera floating-point operations a second of a square bf16 product on random values.
    """

    copy_gb_s: float
    matmul_tflop_s: float

    def floor_ms(self, costs: Costs) -> tuple[float, str]:
        """The least time that ``costs`` can take, and which ceiling says so: "copy" or "matmul"."""
        by_bytes = costs.size_bytes / (self.copy_gb_s * 1e6)
        by_flops = costs.flops / (self.matmul_tflop_s * 1e9)
        return (by_bytes, "copy") if by_bytes >= by_flops else (by_flops, "matmul")


def measure(clock: Clock, device: str = "cuda", copied: int = COPIED_BYTES, matrix: int = MATRIX) -> Ceilings:
    """Copy and multiply, each twice."""
    source = torch.randint(-128, 127, (copied,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn(matrix, matrix, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(left)
    prepared = {
        "copy": prepare(clock, [lambda: target.copy_(source)]),
        "matmul": prepare(clock, [lambda: torch.mm(left, right, out=product)]),
    }
    best = {
        name: min(statistics.median(samples) for samples in passes)
        for name, passes in time_passes(clock, prepared, 0.2).items()
    }
    return Ceilings(
        copy_gb_s=2 * copied / best["copy"] / 1e6,
        matmul_tflop_s=2 * matrix**3 / best["matmul"] / 1e9,
    )
