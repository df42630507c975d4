"""Makes ``benchmarks`` importable: it is not installed, and only ``python -m pytest`` puts the root on the path."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)
