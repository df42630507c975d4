"""WEFT_INSTRUCTION_SET makes a process behave as on a weaker processor."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from weft._native_loader import native, native_or_none

pytestmark = pytest.mark.skipif(native_or_none() is None, reason="weft._native is not built")

SETS = [] if native_or_none() is None else [name for name, usable in native().instruction_sets().items() if usable]


def run(code: str, strongest: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "WEFT_INSTRUCTION_SET": strongest}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


# another one is another process, and the dispatch is the same for every name
@pytest.mark.parametrize("strongest", sorted({SETS[0], SETS[-1]}) if SETS else [])
def test_the_processor_ends_there(strongest: str) -> None:
    code = "from weft._native_loader import native; print(*(n for n, u in native().instruction_sets().items() if u))"
    done = run(code, strongest)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == SETS[: SETS.index(strongest) + 1]


def test_a_stronger_one_by_name_is_refused() -> None:
    code = (
        "import torch; from weft.kernels.attention.arguments import Arguments\n"
        "from weft.ops.attention.cpu import attention_fwd_cpu; x = torch.ones(1, 1, 1, 8)\n"
        "call = Arguments(x, x, x, 1.0); attention_fwd_cpu(call, isa='scalar'); attention_fwd_cpu(call, isa='avx2')"
    )
    done = run(code, "scalar")
    assert done.returncode == 1
    assert "must be one that is built and runs on this processor (scalar); got 'avx2'" in done.stderr


def test_another_name_is_refused() -> None:
    done = run("from weft._native_loader import native; native()", "sse9")
    assert done.returncode == 1
    assert "`WEFT_INSTRUCTION_SET`: instruction set must be one that is built and runs" in done.stderr
