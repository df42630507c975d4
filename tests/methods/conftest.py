"""Lets the tests of this folder import ``tiny_pipelines``, which the tests of attaching keep."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "attach" / "support"))
