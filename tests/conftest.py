"""What every test runs under: Triton's interpreter without a GPU, no network, memory that shows a forgotten write."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

BUILD = Path(__file__).resolve().parents[1] / "build" / "tests"
# what is small there: on a shared machine waiting for a second thread takes longer than the cases do
ON_ONE_THREAD = ("attach", "conformance", "csrc/test_attention_cpu.py", "cuda_emulation", "golden", "methods", "train")
HAS_GPU = torch.cuda.is_available()

# both are read when triton and huggingface_hub are imported, so they come before any test module
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
# kernels that inductor compiled for one vector width are wrong for another, and its cache does not distinguish them
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR",
    str(Path(tempfile.gettempdir()) / f"weft-inductor-{torch.__version__}-{torch.backends.cpu.get_cpu_capability()}"),
)

# `make test` draws the same examples every time, so that a change is judged by its own merits; `make fuzz` looks for
# new failures. No deadlines: the first call of a kernel compiles it
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=300, print_blob=True)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu`` where there is none."""
    if HAS_GPU:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def kept_build() -> Callable[[str, Iterable[Path], Iterable[str], Callable[[Path], None]], Path]:
    """``kept_build(name, sources, flags, make)``: the folder that ``make(folder)`` filled, now or in an earlier run.

    It stays in build/tests until ``sources`` (their names and contents) or ``flags`` change, and workers that run at
    the same time wait for the one that makes it.
    """

    def keep(name: str, sources: Iterable[Path], flags: Iterable[str], make: Callable[[Path], None]) -> Path:
        text = hashlib.sha256("\0".join(flags).encode())
        for source in sorted(sources):
            text.update(source.name.encode() + b"\0" + source.read_bytes())
        place = BUILD / name
        place.mkdir(parents=True, exist_ok=True)
        with open(place / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder = place / text.hexdigest()[:16]
            if not folder.exists():
                for old in place.iterdir():
                    if old.is_dir():
                        shutil.rmtree(old)
                # under its final name only when it is whole: a run that was cut off must not leave half a build
                part = place / "part"
                make(part)
                part.rename(folder)
        return folder

    return keep


@pytest.fixture(autouse=True)
def few_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """One in ``ON_ONE_THREAD``, and as many as before afterwards, whatever a test has set."""
    place, was = request.path.relative_to(Path(__file__).parent), torch.get_num_threads()
    if any(place.is_relative_to(one) for one in ON_ONE_THREAD):
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(was)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fresh buffers hold NaN, so an output that a kernel forgot to write is seen."""
    was, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(was, warn_only=warn)
