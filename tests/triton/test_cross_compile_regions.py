"""The launches of ``regions`` compile for GPUs that are not here and keep what they hold in registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

SCRIPT = Path(__file__).with_name("cross_compile_regions.py")
ARCHS = os.environ.get("WEFT_CROSS_COMPILE", "90").split()
# bytes a thread may keep in local memory; Triton 3.2 keeps 40 at 32 x 32 cells on sm_80
STACK = 48
# bytes of shared memory that any GPU gives to a program
SHARED = 48 * 1024


@pytest.mark.slow
@pytest.mark.parametrize("arch", [int(arch) for arch in ARCHS])
def test_every_launch_compiles_and_fits(arch: int) -> None:
    # the interpreter, which the rest of the suite uses, would take the compiler's place
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(arch)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    launches = [json.loads(line) for line in done.stdout.splitlines()]
    kernels = Counter(launch["kernel"] for launch in launches)
    assert kernels == {
        "_best_windows_fwd_kernel": 5,
        "_concept_gate_map_kernel": 6,
        "_concept_gate_overlap_kernel": 3,
    }
    for launch in launches:
        assert launch["shared"] <= SHARED and launch["stack"] <= STACK and not launch["fp_fusion"], launch
