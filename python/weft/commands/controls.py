"""The methods that ``weft generate`` was asked for, as controls, and what a comparison shows of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

import weft

if TYPE_CHECKING:
    from weft.attach import Control

Box = tuple[float, float, float, float]
Column = tuple[str, Image.Image]


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


def columns(control: Control, image: Image.Image, index: int) -> list[Column]:
    """What a comparison shows of ``control`` beside the picture drawn with it."""
    if isinstance(control, weft.MaskDiffusion):
        shown = [("regions", control.image(image, index))]
        if control.regions is not None:  # they were found in maps
            shown += [(f"map: {name}", control.maps.image(name, image, index)) for name in control.maps]
        return shown
    if isinstance(control, weft.SoftTokens):
        return []
    assert isinstance(control, weft.LocalizedResiduals)
    return [(f"where: {phrase}", control.image(image, phrase, index)) for phrase in control.phrases]


def settings_of(control: Control) -> dict[str, Any]:
    """What decides what ``control`` does, for the record beside a picture."""
    if isinstance(control, weft.MaskDiffusion):
        return {"method": "MaskDiffusion", **dataclasses.asdict(control.settings)}
    if isinstance(control, weft.SoftTokens):
        return {"method": "SoftTokens", "tokens": len(control.tokens), "blocks": control.blocks}
    assert isinstance(control, weft.LocalizedResiduals)
    return {"method": "LocalizedResiduals", **control.settings}
