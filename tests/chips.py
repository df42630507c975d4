"""Runs tests as on weaker processors: torch, MKL, oneDNN, OpenBLAS and weft's kernels are limited together.

Last bits differ from one instruction set to the next, so a test that holds on one chip by luck fails on another. Every
processor that this one can stand for is tried, weakest first::

    python tests/chips.py [--chip avx2] [--quick] [options of pytest]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from weft._native_loader import native_or_none

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Chip:
    """A kind of processor.

    Attributes:
        weft, torch, mkl, onednn, openblas: The strongest instruction set of each library, in its own spelling.
    """

    weft: str
    torch: str
    mkl: str
    onednn: str
    openblas: str

    def environment(self) -> dict[str, str]:
        return {
            "WEFT_INSTRUCTION_SET": self.weft,
            "ATEN_CPU_CAPABILITY": self.torch,
            "MKL_ENABLE_INSTRUCTIONS": self.mkl,
            "ONEDNN_MAX_CPU_ISA": self.onednn,
            "OPENBLAS_CORETYPE": self.openblas,
        }


CHIPS = (
    Chip("scalar", "default", "SSE4_2", "SSE41", "Nehalem"),
    Chip("avx2", "avx2", "AVX2", "AVX2", "Haswell"),
    Chip("avx512", "avx512", "AVX512", "AVX512_CORE", "SkylakeX"),
    Chip("avx512_bf16", "avx512", "AVX512", "AVX512_CORE_BF16", "Cooperlake"),
    Chip("amx", "avx512", "AVX512_E4", "AVX512_CORE_AMX", "Sapphirerapids"),
)

# what depends on arithmetic; the interpreted and emulated GPU kernels run in NumPy and in plain C++
NUMERIC = ("ops", "csrc", "testing", "attach", "methods", "train", "shapes", "evaluation")
# a minute or two a chip: the ops, and one file of each package above them
QUICK = (
    "ops/attention/test_numbers.py",
    "ops/attention/test_gradients.py",
    "ops/contrastive_loss/test_op.py",
    "ops/lowrank_linear/test_op.py",
    "ops/lowrank_linear/test_gradients.py",
    "ops/pairwise_error/test_op.py",
    "attach/test_projections.py",
    "train/distribution/test_losses.py",
    "train/distribution/test_features.py",
)
MARKS = "not gpu and not serial and not long"


def usable() -> list[Chip]:
    """The chips that this processor can stand for; those of x86 alone, since the libraries' words are of x86."""
    native = native_or_none()
    sets = {} if native is None else native.instruction_sets()
    return [chip for chip in CHIPS if sets.get(chip.weft)] if "avx2" in sets else []


def run(chip: Chip, paths: tuple[str, ...], options: list[str]) -> int:
    """Exit status of pytest over ``paths`` below tests/ on ``chip``."""
    print(f"== {chip.weft}: {' '.join(f'{name}={value}' for name, value in chip.environment().items())}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-m", MARKS, *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **chip.environment()}
    return subprocess.run([*command, *(f"tests/{path}" for path in paths)], cwd=ROOT, env=env).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", choices=[chip.weft for chip in CHIPS], help="this one alone")
    parser.add_argument("--quick", action="store_true", help="a small part of the tests")
    given, options = parser.parse_known_args()
    chips = [chip for chip in usable() if given.chip in (None, chip.weft)]
    if not chips:
        print("chips: this processor, or this build of weft._native, can stand for none of the chips asked for")
        return 1
    failed = [chip.weft for chip in chips if run(chip, QUICK if given.quick else NUMERIC, options)]
    print(f"chips: {len(chips)} tried; " + (f"failed on {', '.join(failed)}" if failed else "all passed"))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
