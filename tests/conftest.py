"""What every test runs under: Triton's interpreter without a GPU, no network, memory that shows a forgotten write."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

HAS_GPU = torch.cuda.is_available()

# both are read when triton and huggingface_hub are imported, so they stand before any test module
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

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


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fresh buffers hold NaN, so an output that a kernel forgot to write is seen."""
    was, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(was, warn_only=warn)
