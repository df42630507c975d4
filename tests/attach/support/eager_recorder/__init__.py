"""What a stock denoiser attends to, read without weft: the numbers that weft's maps are held against.

``with recorded(pipe.transformer) as passes:`` collects a record for each forward pass of the denoiser.
"""

from __future__ import annotations

from .calls import Call, Pass
from .recording import recorded

__all__ = ["Call", "Pass", "recorded"]
