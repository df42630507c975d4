"""A GAN that is trained in a moment, and scenes for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from weft.shapes import CaptionedScenes
from weft.train import GanConfig
from weft.train.gan.config import MATCHING, RECIPES, Baseline

SMALL = {"generator_width": 2, "discriminator_width": 2, "noise": 4, "hidden": 8, "mask_width": 4}


def scenes(count: int = 12) -> CaptionedScenes:
    return CaptionedScenes(count, captions=4)


def config(baseline: Baseline = "ssa", **changes: Any) -> GanConfig:
    """Two steps of four pictures after two of the matching model."""
    recipe = replace(RECIPES[baseline, "cpu"], **SMALL)
    matching = replace(
        MATCHING["cpu"], width=8, embedding=6, channels=4, steps=2, batch_size=4, dropout=changes.pop("dropout", 0.5)
    )
    standard = GanConfig(
        baseline=baseline, recipe=recipe, matching=matching, steps=2, batch_size=4, precision="no", log_every=1
    )
    return replace(standard, **changes)
