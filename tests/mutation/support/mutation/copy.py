"""The copy of the tree that faults are planted in."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

from mutation.fault import ROOT

WORK = ROOT / "build" / "mutation"
# one instruction set of five, hardly optimised: most of the time of a fault in C++ is the compiler's
BUILD = """
import build_native as build, sysconfig, shutil
from pathlib import Path
name = "avx2" if "avx2" in build.INSTRUCTION_SETS else "scalar"
build.INSTRUCTION_SETS = {name: build.INSTRUCTION_SETS[name]}
suffix = sysconfig.get_config_var("EXT_SUFFIX")
library = build.build_library(Path("build/native").resolve(), "_native" + suffix)
shutil.copy2(library, Path("python/weft") / library.name)
"""
# likewise one of ten CUDA kernels, which the emulation would compile for each fault; what a fault leaves unused is no
# error there
CUDA_INSTANCE = "X(Half, 40, attention_half_40)"
EMULATION = "tests/cuda_emulation/conftest.py"


class Copy:
    """A copy of what git knows or would add. The first that no other run holds, so that runs may go side by side.

    Attributes:
        path: Its root.
    """

    def __init__(self) -> None:
        for number in itertools.count():
            self.path = WORK / f"tree-{number}"
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "w")  # noqa: SIM115 (held as long as the process lives)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                self._lock.close()
        self._built = ""
        self._update()

    def _update(self) -> None:
        """Only what differs is written, so that ninja compiles only that."""
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        wanted = {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}
        for folder in ("csrc", "kernels", "python", "tests", "benchmarks"):
            for path in (self.path / folder).rglob("*"):
                is_copied = path.is_file() and not path.is_symlink() and path.suffix != ".so"
                if is_copied and str(path.relative_to(self.path)) not in wanted:
                    path.unlink()
        for name in wanted:
            content = (ROOT / name).read_bytes()
            _write(self.path / name, content.replace(b'"-Werror", ', b"") if name == EMULATION else content)
        # in place of the map of an editable install, which leads to the original
        for package in (ROOT / "kernels").iterdir():
            link = self.path / "python/weft/kernels" / package.name
            if package.is_dir() and not link.exists():
                link.symlink_to(f"../../../kernels/{package.name}")
        self._keep_one_cuda_instance()

    def _keep_one_cuda_instance(self) -> None:
        folder = self.path / "csrc/attention/cuda/instances"
        for path in folder.glob("*.cu"):
            if path.stem not in CUDA_INSTANCE:
                path.unlink()
        header = (folder / "instances.h").read_text()
        (folder / "instances.h").write_text(header[: header.index("\\\n")] + CUDA_INSTANCE + "\n")

    def build_native(self) -> str | None:
        """Compile the native module where its source has changed; what the compiler said where it failed."""
        sources = sorted(path for path in (self.path / "csrc").rglob("*") if path.suffix in (".cpp", ".h"))
        # the only header of CUDA among them is the one cut above
        now = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()
        if now == self._built:
            return None
        self._built = ""
        command = [sys.executable, "-c", BUILD]
        done = subprocess.run(command, cwd=self.path, env=self.environment(), capture_output=True, text=True)
        if done.returncode:
            return done.stdout + done.stderr
        self._built = now
        return None

    def environment(self) -> dict[str, str]:
        """What compilers and tests of the copy run under."""
        own = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, self.python_path())),
            # a changed file of the same size and second would be taken for the one before
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "TRITON_INTERPRET": "1",
            "HF_HUB_OFFLINE": "1",
            "WEFT_CUDA": "0",
            "CXXFLAGS": "-O1",
            # copies share what they compile
            "CCACHE_BASEDIR": str(self.path),
            "CCACHE_NOHASHDIR": "1",
        }
        if ccache := shutil.which("ccache"):
            # under a compiler's name it stands in for that compiler, also for tests that compile
            for name in ("g++", "c++"):
                link = self.path / "build/bin" / name
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    link.symlink_to(ccache)
            own["PATH"] = f"{self.path / 'build/bin'}{os.pathsep}{own['PATH']}"
        return own

    def python_path(self) -> list[Path]:
        """Where Python finds the copy's packages, before those that are installed."""
        return [self.path / "python", self.path]


def _write(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
