"""The methods that ``weft generate`` was asked for, as controls."""

from __future__ import annotations

from collections.abc import Sequence

import weft

Box = tuple[float, float, float, float]


def mask_diffusion(phrases: Sequence[str], boxes: dict[str, Box]) -> weft.MaskDiffusion:
    """The control of ``--method maskdiffusion``."""
    return weft.MaskDiffusion(tuple(phrases) or None, boxes=boxes or None)


def localized_residuals(
    residuals: Sequence[weft.Residual], localize: str, threshold: str, scale: float, boxes: dict[str, Box]
) -> weft.LocalizedResiduals:
    """The control of ``--residual``; ``threshold`` is a rule or a number."""
    try:
        rule: str | float = float(threshold)
    except ValueError:
        rule = threshold
    return weft.LocalizedResiduals(residuals, boxes or localize, threshold=rule, scale=scale)


def parse_boxes(texts: Sequence[str]) -> dict[str, Box]:
    """'a red circle=0,0,32,64' as phrase to box.

    Raises:
        ValueError: Another form, or a phrase with two boxes.
    """
    boxes: dict[str, Box] = {}
    for text in texts:
        phrase, _, sides = text.rpartition("=")
        phrase = phrase.strip()
        try:
            left, top, right, bottom = map(float, sides.split(","))
        except ValueError:
            phrase = ""
        if not phrase:
            raise ValueError(f"generate: --boxes must look like 'a red circle=left,top,right,bottom'; got {text!r}")
        if phrase in boxes:
            raise ValueError(
                f"generate: --boxes gives {phrase!r} twice; a second object of the same name is '{phrase}#2'"
            )
        boxes[phrase] = (left, top, right, bottom)
    return boxes
