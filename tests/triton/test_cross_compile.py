"""Every launch compiles for GPUs that are not here, fits their shared memory, and spills no more than is known of.

WEFT_CROSS_COMPILE lists the architectures: one in ``make test``, two more in ``make test-long``, all six in
``make check-all``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from weft.kernels.attention.launch_table import TABLE

pytest.importorskip("triton", reason="triton is not installed")

SCRIPT = Path(__file__).with_name("cross_compile.py")
GIVEN = [int(arch) for arch in os.environ.get("WEFT_CROSS_COMPILE", "").split()]

# bytes of shared memory that one program may have
SHARED = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
# what any GPU gives to a program
SHARED_ANYWHERE = dict.fromkeys(SHARED, 48 * 1024)


@dataclass(frozen=True)
class Stack:
    """Bytes a thread may keep in local memory; by None of all kernels, cases or architectures."""

    bytes: int
    kernels: Collection[str] | None = None
    cases: Collection[str] | None = None
    archs: Collection[int] | None = None

    def covers(self, kernel: str, case: str, arch: int) -> bool:
        given = ((kernel, self.kernels), (case, self.cases), (arch, self.archs))
        return all(limits is None or value in limits for value, limits in given)


@dataclass(frozen=True)
class Budget:
    """What the kernels of one op may use.

    Attributes:
        kernels: All there are, without the op's name.
        stack: The first that covers a launch counts; what none covers may not spill.
        shared: By architecture.
        launches: How many of some kernels the cases make.
        table: The launch table whose rows must all be taken, as the architecture of each.
        multiplies: Whether there are products, which architectures do each in their own way.
    """

    kernels: Collection[str]
    stack: tuple[Stack, ...] = ()
    shared: Mapping[int, int] = field(default_factory=lambda: SHARED)
    launches: Mapping[str, int] = field(default_factory=dict)
    table: tuple[int, ...] = ()
    multiplies: bool = True

    def stack_of(self, kernel: str, case: str, arch: int) -> int:
        return next((stack.bytes for stack in self.stack if stack.covers(kernel, case, arch)), 0)


BUDGETS = {
    # debts for a device to price, for any case and Triton 3.2, 3.6 and 3.9; beside each whose it is
    "attention": Budget(
        ("fwd_short", "fwd_long", "bwd_q", "bwd_kv", "bwd_tables"),
        (
            # where speed is wanted most nothing may spill at all
            Stack(0, cases=("sdxl_64_plain", "sd3_joint_maps", "sd15_self_edit")),
            Stack(0, cases=("sdxl_64_maps",), archs=(90, 100)),
            Stack(1280, ("fwd_short",)),  # D = 160 on sm_120
            # the second pass, over keys whose values are not finite, at D = 256; Triton 3.7 has 776
            Stack(800, ("fwd_long",), ("widest",), (120,)),
            Stack(672, ("fwd_long",), ("pixart_edit", "widest")),  # D = 72 and 256, Triton 3.2
            Stack(320, ("fwd_long",)),  # fp32, Triton 3.2
            # D = 96 with all tables, whether heads share keys or not; the most are those of sm_120 and sm_80
            Stack(384, ("bwd_q",), ("shared_keys",)),
            Stack(472, ("bwd_kv",), ("shared_keys",)),
            Stack(192, ("bwd_q",)),  # fp32, Triton 3.2
            Stack(288, ("bwd_kv",)),  # D = 64 on sm_90, Triton 3.6
            Stack(448, ("bwd_tables",)),  # fp32, Triton 3.2
        ),
        table=tuple(row.arch for row in TABLE),
    ),
    # next to nothing, but more where features are no whole number of steps and every relation of pairs is asked for
    "contrastive_loss": Budget(
        ("fwd", "bwd_pairs", "bwd_features"),
        # 40 bytes on sm_120 with Triton 3.7
        (Stack(512, cases=("everything",)), Stack(40, cases=("nt_xent",), archs=(120,)), Stack(32)),
    ),
    # the widest tiles of Hopper and Blackwell hold 128 fp32 values a thread, and adding the residual needs a few
    # registers more than are left: a debt for a device to price
    "lowrank_linear": Budget(
        ("shrink", "project", "bwd_outer", "bwd_gate"),
        (
            Stack(64, ("project",), ("flux", "flux_recompute", "flux_alone"), (90,)),
            Stack(160, ("project",), ("flux", "flux_recompute", "flux_alone"), (100,)),
            Stack(32, ("bwd_outer",), archs=(100,)),
        ),
    ),
    "pairwise_error": Budget(("fwd", "bwd"), shared=SHARED_ANYWHERE, multiplies=False),
    "regions": Budget(
        ("best_windows_fwd", "concept_gate_map", "concept_gate_overlap"),
        (Stack(48),),  # Triton 3.2 keeps 40 at 32 x 32 cells on sm_80
        SHARED_ANYWHERE,
        {"best_windows_fwd": 5, "concept_gate_map": 6, "concept_gate_overlap": 3},
        multiplies=False,
    ),
}


def _compilations() -> Iterator[Any]:
    for op, budget in BUDGETS.items():
        for arch in GIVEN or (90,):
            yield pytest.param(op, arch, id=f"{op}-{arch}")
        # in make test only the one with wgmma; these two multiply by mma.sync, with much and with little shared memory
        for arch in () if GIVEN or not budget.multiplies else (80, 120):
            yield pytest.param(op, arch, id=f"{op}-{arch}", marks=pytest.mark.long)


@pytest.mark.slow
@pytest.mark.parametrize(("op", "arch"), list(_compilations()))
def test_every_launch_compiles_and_fits(op: str, arch: int) -> None:
    # the interpreter, which the rest of the suite uses, would take the compiler's place
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(SCRIPT), op, str(arch)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    budget = BUDGETS[op]
    launches = [json.loads(line) for line in done.stdout.splitlines()]
    counts = Counter(launch["kernel"] for launch in launches)
    assert counts.keys() == set(budget.kernels), "a kernel is not compiled by any case"
    assert budget.launches.items() <= counts.items()
    own_rows = {place for place, row_arch in enumerate(budget.table) if row_arch == arch}
    assert own_rows <= {launch["row"] for launch in launches}, "a row of the launch table is not compiled"
    for launch in launches:
        assert launch["shared"] <= budget.shared[arch], launch
        assert launch["stack"] <= budget.stack_of(launch["kernel"], launch["case"], arch), launch
        # its default differs between versions of Triton, and results must not
        assert launch["fp_fusion"] is False, launch
