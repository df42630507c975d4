"""Pictures that something is drawn over, as pipelines and their users have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

_CHANNELS = (1, 3, 4)  # grey, colours, and colours with transparency, which is left out


def as_picture(value: Any, *, who: str) -> Image.Image:
    """``value`` in RGB.

    Args:
        value: A PIL image; an array [h, w] or [h, w, C]; or a tensor [h, w] or [C, h, w], on any device. C is 1, 3 or
            4. Pixels are uint8 from 0 to 255, booleans, or floats from 0 to 1, as pipelines give with
            ``output_type="np"`` and ``"pt"``.
        who: Named in errors.

    Raises:
        TypeError: Something else, or numbers of another dtype.
        ValueError: Another shape, or floats that are not from 0 to 1.
    """
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    if isinstance(value, Tensor):
        pixels = value.detach().cpu()
        pixels = pixels.movedim(0, -1) if pixels.ndim == 3 else pixels
        array: Any = (pixels.float() if pixels.is_floating_point() else pixels).numpy()
        layout = "[h, w] or [C, h, w]"
    elif isinstance(value, np.ndarray):
        array, layout = value, "[h, w] or [h, w, C]"
    else:
        raise TypeError(
            f"{who}: the picture must be a PIL image, an array [h, w, C] or a tensor [C, h, w]; got "
            f"{type(value).__name__}"
        )
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in _CHANNELS or 0 in array.shape:
        raise ValueError(
            f"{who}: the picture must be {layout} with C of 1, 3 or 4; got {list(value.shape)}; of a batch give one"
        )
    return Image.fromarray(_bytes(array[..., :3].repeat(3 if array.shape[2] == 1 else 1, axis=2), value.dtype, who))


def _bytes(array: Any, dtype: Any, who: str) -> Any:
    """Pixels of 8 bits."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"{who}: the picture must have uint8 from 0 to 255 or floats from 0 to 1; got {dtype}")
    # written so that NaN fails
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(
            f"{who}: floats of the picture must be from 0 to 1; got {array.min():g} to {array.max():g}; a range of -1 "
            "to 1 is x / 2 + 0.5"
        )
    return (array * 255).round().astype(np.uint8)
