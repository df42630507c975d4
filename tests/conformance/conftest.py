"""Lets the tests of this folder import tiny pipelines and what ``support`` holds, and runs them on one core."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path += [str(HERE / "support"), *(str(HERE.parent / name / "support") for name in ("attach", "methods"))]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small to share; on a busy machine their threads would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
