"""Every launch of ``contrastive_loss`` compiles for GPUs that are not here, fits their shared memory, hardly spills.

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

SCRIPT = Path(__file__).with_name("cross_compile_contrastive_loss.py")
# in make test only the one with wgmma; the other two multiply by mma.sync, with much and with little shared memory
GIVEN = os.environ.get("WEFT_CROSS_COMPILE", "").split()
ARCHS = [
    *(int(arch) for arch in GIVEN or ("90",)),
    *(pytest.param(arch, marks=pytest.mark.long) for arch in (() if GIVEN else (80, 120))),
]

KERNELS = {f"_contrastive_loss_{name}_kernel" for name in ("fwd", "bwd_pairs", "bwd_features")}
# bytes of shared memory that one program may have
SHARED = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
# bytes a thread may keep in local memory: next to nothing, but more where features are no whole number of steps and
# every relation of pairs is asked for at once
STACK = 32
STACK_OF_EVERYTHING = 512


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
        assert launch["stack"] <= (STACK_OF_EVERYTHING if launch["case"] == "everything" else STACK), launch
        # its default differs between versions of Triton, and results must not
        assert launch["fp_fusion"] is False, launch
