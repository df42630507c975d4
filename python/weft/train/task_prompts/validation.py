"""Pictures of the five tasks, drawn while an inpainting model learns them, always from the same noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from weft._files import whole_file
from weft.methods.powerpaint import Task, TaskPrompts
from weft.train.task_prompts import masks
from weft.train.task_prompts.pictures import MaskedPicture

ROWS = 4  # pictures on a sheet, a row each
TIGHT = 0.9  # fit of the shape task


def task_validation(
    pipe: Any,
    tasks: Callable[[], TaskPrompts],
    pictures: Sequence[MaskedPicture],
    size: int,
    folder: Path,
    *,
    every: int,
    last: int,
    sampler_steps: int,
    seed: int,
) -> Callable[[int], None]:
    """What draws a sheet with the model as it is, to be called after a step.

    A row is a picture, with its hole, then after removal, insertion, shape, context and outpainting. A picture with
    known objects has its hole where the first of them is; another has a random one, and no insertion or shape.

    Args:
        tasks: Gives the prompts as they are.
        size: Side of a picture, in pixels.
        folder: Gets ``step00050.png``.
        every: Steps between sheets.
        last: Step after which there is one too.
    """

    def draw(step: int) -> None:
        if step % every and step != last:
            return
        folder.mkdir(parents=True, exist_ok=True)
        prompts, dtype = tasks(), pipe.text_encoder.dtype
        # what is trained is fp32 beside text in fewer bits
        with torch.autocast(pipe.device.type, dtype, enabled=dtype != torch.float32):
            rows = [_row(pipe, prompts, picture, size, sampler_steps, seed) for picture in pictures[:ROWS]]
        sheet = Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in rows], 0))
        with whole_file(folder / f"step{step:05d}.png") as temporary:
            sheet.save(temporary)

    return draw


def _row(
    pipe: Any, tasks: TaskPrompts, picture: MaskedPicture, size: int, sampler_steps: int, seed: int
) -> list[NDArray[np.uint8]]:
    """Squares of ``size`` pixels."""
    rng = np.random.default_rng(seed)
    pixels = picture.square(size)
    thing = picture.mask(0, size) if picture.objects else np.zeros((size, size), bool)
    known = bool(thing.any())
    hole = masks.box(thing, rng) if known else masks.strokes(size, rng)
    hidden = pixels.copy()
    hidden[hole] = 127
    found = [pixels, hidden]

    def painted(task: Task, mask: Any, **options: Any) -> NDArray[np.uint8]:
        generator = torch.Generator(pipe.device).manual_seed(seed)
        image = options.pop("image", pixels)
        drawn = tasks.inpaint(
            pipe, image, mask, task, num_inference_steps=sampler_steps, generator=generator, **options
        )
        return np.asarray(drawn)

    found.append(painted("removal", hole))
    if known:
        text = picture.objects[0].caption
        found += [painted("insert", hole, text=text), painted("shape", thing, text=text, fit=TIGHT)]
    else:
        found += [hidden, hidden]
    found.append(painted("context", hole))
    # an eighth on both sides, of a picture as much narrower, so that the row stays one of squares
    edge = size // 8
    found.append(painted("outpaint", None, image=pixels[:, edge : size - edge], left=edge, right=edge, overlap=2))
    return found
