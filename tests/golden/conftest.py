"""Lets the tests of this folder import what ``support`` holds, and runs them on one core, as the record was made."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

sys.path.append(str(Path(__file__).parent / "support"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small to share; on a busy machine their threads would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """The state behind an accelerator is global, and other tests have theirs."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
