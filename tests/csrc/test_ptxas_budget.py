"""The CUDA kernels compile for the architectures we name, within their registers, without stack or spills.

Here one architecture and the files whose tiles are the largest; ``python tests/csrc/ptxas_report.py`` does them all.
"""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest

REPORT = runpy.run_path(str(Path(__file__).with_name("ptxas_report.py")))
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc; a GPU it does not need")


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize(("stem", "count"), [("attention", 3), ("attention_half_64", 6), ("attention_bfloat_160", 6)])
def test_within_budget(stem, count):
    (source,) = REPORT["CSRC"].rglob(f"{stem}.cu")
    kernels = REPORT["report"](source, "90a")
    assert len(kernels) == count
    assert [fault for kernel in kernels for fault in kernel.faults()] == []


def test_what_is_over_budget_is_reported():
    kernel = REPORT["Kernel"]
    assert kernel("a.cu", "90a", "attention_long<64>", 255, 0, 0).faults() == []
    (registers,) = kernel("a.cu", "90a", "attention_short<40, 80>", 129, 0, 0).faults()
    assert registers == "a.cu for sm_90a: attention_short<40, 80> takes 129 registers, over 128"
    (spills,) = kernel("a.cu", "80", "attention_long<64>", 255, 16, 24).faults()
    assert spills == "a.cu for sm_80: attention_long<64> has 16 bytes of stack and 24 of spills"
    (unknown,) = kernel("a.cu", "80", "new<1>", 10, 0, 0).faults()
    assert "has no budget" in unknown


@pytest.mark.parametrize(
    ("mangled", "plain"),
    [
        ("_ZN4weft22attention_short_kernelINS_4HalfELi40ELi128ELb0EEEvNS_8CudaCallE", "attention_short<40, 128>"),
        ("_ZN4weft21attention_long_kernelINS_6BfloatELi160ELb1EEEvNS_8CudaCallE", "attention_long<160> edited"),
        ("_ZN4weft22mean_over_heads_kernelI6float4EEvPKT_PS2_lil", "mean_over_heads"),
    ],
)
def test_names_of_kernels(mangled, plain):
    assert REPORT["plain_name"](mangled) == plain
