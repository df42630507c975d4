"""Lets the tests of this folder import ``tiny_pipelines``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "support"))
