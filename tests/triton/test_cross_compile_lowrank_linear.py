"""Every launch of ``lowrank_linear`` compiles for GPUs that are not here, fits their shared memory, and hardly spills.

WEFT_CROSS_COMPILE lists the architectures: one in ``make test``, two more in ``make test-long``, all six in
``make check-all``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

SCRIPT = Path(__file__).with_name("cross_compile_lowrank_linear.py")
# in make test only the one with wgmma; the other two multiply by mma.sync, with much and with little shared memory
GIVEN = os.environ.get("WEFT_CROSS_COMPILE", "").split()
ARCHS = [
    *(int(arch) for arch in GIVEN or ("90",)),
    *(pytest.param(arch, marks=pytest.mark.long) for arch in (() if GIVEN else (80, 120))),
]

KERNELS = {f"_lowrank_linear_{name}_kernel" for name in ("shrink", "project", "bwd_outer", "bwd_gate")}
# bytes of shared memory that one program may have
SHARED = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
# bytes a thread may keep in local memory, by architecture and kernel. The widest tiles of Hopper and Blackwell hold
# 128 fp32 values a thread, and adding the residual needs a few registers more than are left: a debt for a device to
# price
STACK = {(90, "project"): 64, (100, "project"): 160, (100, "bwd_outer"): 32}
# of the base product only the widest tiles may spill
SPILLING_CASES = {"flux", "flux_recompute", "flux_alone"}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_every_launch_compiles_and_fits(arch: int) -> None:
    # the interpreter, which the rest of the suite uses, would take the compiler's place
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(arch)], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    launches = [json.loads(line) for line in done.stdout.splitlines()]
    assert {launch["kernel"] for launch in launches} == KERNELS, "a kernel is not compiled by any case"
    for launch in launches:
        assert launch["shared"] <= SHARED[arch], launch
        kernel = launch["kernel"].removeprefix("_lowrank_linear_").removesuffix("_kernel")
        may_spill = kernel != "project" or launch["case"] in SPILLING_CASES
        assert launch["stack"] <= (STACK.get((arch, kernel), 0) if may_spill else 0), launch
        # its default differs between versions of Triton, and results must not
        assert launch["fp_fusion"] is False, launch
