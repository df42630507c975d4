"""Lets the tests of this folder import what ``support`` holds, here and for the tests of attaching."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / "attach" / "support"), str(Path(__file__).parent / "support")]
