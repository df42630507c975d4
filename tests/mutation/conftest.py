"""The planted faults are data in ``support/mutation``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))
