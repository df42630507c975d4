"""Masks of regions as users give them: PIL images, arrays or tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def is_mask(region: Any) -> bool:
    """Whether ``region`` is of a kind that masks come in."""
    from PIL import Image

    return isinstance(region, (Tensor, np.ndarray, Image.Image))


def read_mask(region: Any, phrase: str, *, who: str) -> Tensor:
    """A mask as fp32 [h, w] in [0, 1] on the CPU.

    Args:
        region: A PIL image, an array or a tensor [h, w] of booleans, bytes, or numbers from 0 to 1.
        phrase: What it is of, for messages.
        who: Whose argument it is, for messages.

    Raises:
        ValueError: Another shape, or values outside 0 to 1.
    """
    from PIL import Image

    if isinstance(region, Image.Image):
        region = np.array(region if region.mode in ("1", "L", "F", "I", "I;16") else region.convert("L"))
    mask = region.detach().cpu() if isinstance(region, Tensor) else torch.from_numpy(np.ascontiguousarray(region))
    if mask.ndim != 2 or mask.is_complex():
        raise ValueError(f"{who}: the mask of {phrase!r} must be [h, w]; got {list(mask.shape)} of {mask.dtype}")
    # bytes of 0 and 1, as segmentation models give them, are booleans
    largest = 255 if mask.dtype == torch.uint8 and bool((mask > 1).any()) else 1
    mask = mask.float() / largest
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError(
            f"{who}: the mask of {phrase!r} must be booleans, bytes, or numbers from 0 to 1; got values from "
            f"{float(mask.min()):g} to {float(mask.max()):g}"
        )
    return mask


def check_mask_size(mask: Tensor, phrase: str, image_size: tuple[int, int], *, who: str) -> None:
    """Refuse a mask of another size than the image.

    Raises:
        ValueError: It is.
    """
    if tuple(mask.shape) != tuple(image_size):
        height, width = image_size
        raise ValueError(
            f"{who}: the mask of {phrase!r} must have the size of the image, {height} x {width} (rows x columns); got "
            f"{mask.shape[0]} x {mask.shape[1]}"
        )
