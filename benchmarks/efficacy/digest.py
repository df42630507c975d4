"""Names for what is kept: they change with the settings it was made by."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(settings: Any) -> str:
    """Eight digits that change with the settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
