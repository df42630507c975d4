"""The versions of diffusers that weft works with."""

from __future__ import annotations

import functools
import logging

import diffusers

logger = logging.getLogger(__name__)

# what is used here reads the same from the first to the last of these; the oldest ones were not run
DIFFUSERS_OLDEST, DIFFUSERS_NEWEST_TESTED = (0, 35), (0, 42)


def check_diffusers() -> None:
    """Say once when the installed diffusers is outside these versions.

    Raises:
        ImportError: It is older than what weft supports.
    """
    installed = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
    if installed < DIFFUSERS_OLDEST:
        raise ImportError(f"attach: needs diffusers >= {_dotted(DIFFUSERS_OLDEST)}; found {diffusers.__version__}")
    if installed > DIFFUSERS_NEWEST_TESTED:
        _say_untested(diffusers.__version__)


@functools.cache
def _say_untested(version: str) -> None:
    logger.warning("attach: checked on diffusers up to %s; found %s", _dotted(DIFFUSERS_NEWEST_TESTED), version)


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(str(part) for part in version)
