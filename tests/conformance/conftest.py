"""Lets the tests of this folder import tiny pipelines and what ``support`` holds."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE / "support"), *(str(HERE.parent / name / "support") for name in ("attach", "methods"))]
