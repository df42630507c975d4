"""A quiet machine for commands that train."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

sys.path.append(str(Path(__file__).parent / "support"))


@pytest.fixture
def quiet_machine() -> Iterator[None]:
    """One thread, and an accelerator of each test's own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)
