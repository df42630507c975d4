"""Lets the tests of this folder import what ``support`` holds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

sys.path.append(str(Path(__file__).parent / "support"))


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """The state behind an accelerator is global, and other tests have theirs."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
