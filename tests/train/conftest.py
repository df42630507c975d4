"""Lets the tests of this folder import tiny pipelines, with an accelerator of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

sys.path.append(str(Path(__file__).parents[1] / "attach" / "support"))
sys.path.append(str(Path(__file__).parent / "support"))


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """The state behind an accelerator is global, and other tests have theirs."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def accelerator(fresh_state: None) -> Accelerator:
    return Accelerator(cpu=True)
