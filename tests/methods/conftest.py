"""Lets the tests of this folder import what ``support`` holds, and ``tiny_pipelines``, kept by the tests of attaching.

Runs them on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path += [str(Path(__file__).parents[1] / "attach" / "support"), str(Path(__file__).parent / "support")]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small to share; on a busy machine their threads would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
