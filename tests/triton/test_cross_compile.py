"""Every launch compiles for GPUs that are not here, fits their shared memory, and spills no more than is known of.

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

from weft.kernels.attention.launch_table import TABLE

pytest.importorskip("triton", reason="triton is not installed")

SCRIPT = Path(__file__).with_name("cross_compile.py")
# in make test only the one with wgmma; the other two multiply by mma.sync, with much and with little shared memory
GIVEN = os.environ.get("WEFT_CROSS_COMPILE", "").split()
ARCHS = [
    *(int(arch) for arch in GIVEN or ("90",)),
    *(pytest.param(arch, marks=pytest.mark.long) for arch in (() if GIVEN else (80, 120))),
]

# bytes of shared memory that one program may have
SHARED = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
# bytes a thread may keep in local memory, by kernel, for any case and Triton 3.2, 3.6 and 3.9: debts for a device to
# price; beside each whose it is
STACK = {
    "_attention_fwd_short_kernel": 1280,  # D = 160 on sm_120
    "_attention_fwd_long_kernel": 320,  # D = 72 and 256, Triton 3.2
    "_attention_bwd_q_kernel": 192,  # fp32, Triton 3.2
    "_attention_bwd_kv_kernel": 288,  # D = 64 on sm_90, Triton 3.6
    "_attention_bwd_tables_kernel": 448,  # fp32, Triton 3.2
}
# where speed is wanted most nothing may spill at all
WITHOUT_SPILLS = {(arch, case) for arch in SHARED for case in ("sdxl_64_plain", "sd3_joint_maps", "sd15_self_edit")}
WITHOUT_SPILLS |= {(90, "sdxl_64_maps"), (100, "sdxl_64_maps")}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_every_launch_compiles_and_fits(arch: int) -> None:
    # the interpreter, which the rest of the suite uses, would take the compiler's place
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(arch)], env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    launches = [json.loads(line) for line in done.stdout.splitlines()]
    assert {launch["kernel"] for launch in launches} == set(STACK), "a kernel is not compiled by any case"
    own_rows = {place for place, row in enumerate(TABLE) if row.arch == arch}
    assert own_rows <= {launch["row"] for launch in launches}, "a row of the launch table is not compiled"
    for launch in launches:
        assert launch["shared"] <= SHARED[arch], launch
        budget = 0 if (arch, launch["case"]) in WITHOUT_SPILLS else STACK[launch["kernel"]]
        assert launch["stack"] <= budget, launch
        # its default differs between versions of Triton, and results must not
        assert launch["fp_fusion"] is False, launch
