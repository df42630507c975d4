"""The families of models that weft knows."""

from __future__ import annotations

from typing import Any

from weft.attach.families.family import Family
from weft.attach.families.sd3 import SD3
from weft.attach.families.unet import UNET

FAMILIES = (UNET, SD3)


def family_of(model: Any) -> Family | None:
    """The family that a denoiser is of; None for none."""
    return next((family for family in FAMILIES if isinstance(model, family.model)), None)


def known_families() -> str:
    """What there is, for a message."""
    return " or ".join(f"{family.model.__name__} ({family.about})" for family in FAMILIES)
