"""One call of a stock inpainting pipeline as several holes painted at the model's own size and pasted back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from PIL import Image

from weft.methods.inpainting.job import Job, PasteBack
from weft.methods.inpainting.pictures import Hole, Pixels, read_masks, read_pictures
from weft.methods.inpainting.window import ModelSize, Window, choose_window

# arguments that have a row for every picture that is made
_PER_ROW = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
    "task_embeds",
    "negative_task_embeds",
)
_TEXTS = ("prompt", "prompt_2", "negative_prompt", "negative_prompt_2")


def run_pasted(
    run: Callable[..., Any], arguments: Mapping[str, Any], settings: PasteBack, model: ModelSize, *, who: str
) -> Any:
    """Call a stock inpainting pipeline so that its images are the given ones but for their holes.

    Holes whose windows are worked on at one size go through the pipeline together.

    Args:
        run: The pipeline's own call.
        arguments: Of it; images and masks as ``read_pictures`` and ``read_masks`` take them.

    Returns:
        What the pipeline returns, its images as large as those that were given.

    Raises:
        TypeError, ValueError, FileNotFoundError: Pictures and masks that cannot be taken, or numbers of them that do
            not fit the texts.
    """
    given = dict(arguments)
    copies = given.pop("num_images_per_prompt", None) or 1
    output_type, returns_dict = given.pop("output_type", None) or "pil", given.pop("return_dict", True)
    if output_type not in ("pil", "np", "pt"):
        raise ValueError(
            f"{who}: `output_type` must be 'pil', 'np' or 'pt' for images that are pasted back; got {output_type!r}; "
            "set `paste_back` to None for what the pipeline itself gives"
        )
    pictures = read_pictures(given.pop("image", None), who=who)
    masks = read_masks(given.pop("mask_image", None), pictures, who=who)
    size = (given.pop("height", None), given.pop("width", None))
    if any(side is not None and (side < 1 or side % model.multiple) for side in size):
        raise ValueError(
            f"{who}: `height` and `width` must be multiples of {model.multiple} pixels; got {size[0]} and {size[1]}; "
            "they are the size that the model works at and may be left out; pictures come out as they went in"
        )
    jobs, rows = _jobs(pictures, masks, _rows(given), copies, size, settings, model, who)
    generators = given.pop("generator", None)
    if isinstance(generators, list) and len(generators) != rows:
        raise ValueError(f"{who}: needs one generator, or one for each of {rows} pictures; got {len(generators)}")
    results = [pictures[number // copies % len(pictures)].copy() for number in range(rows)]
    flagged, output = [False] * rows, None
    for group in _groups(jobs):
        across, down = group[0].window.work
        output = run(
            **_of_rows(given, [job.row for job in group]),
            image=[job.shown() for job in group],
            mask_image=[job.mask(model.multiple, settings.covers_cells) for job in group],
            generator=[generators[job.result] for job in group] if isinstance(generators, list) else generators,
            height=down,
            width=across,
        )
        unsafe = getattr(output, "nsfw_content_detected", None) or [False] * len(group)
        for job, painted, is_unsafe in zip(group, output.images, unsafe, strict=True):
            job.paste(results[job.result], painted, settings, model.multiple)
            flagged[job.result] |= is_unsafe
    assert output is not None
    output.images = _converted(results, output_type, who)
    if getattr(output, "nsfw_content_detected", None) is not None:
        output.nsfw_content_detected = flagged
    # not `to_tuple`, which leaves out what is None
    return output if returns_dict else tuple(getattr(output, name.name) for name in fields(output))


def _jobs(
    pictures: Sequence[Pixels],
    masks: Sequence[Sequence[Hole]],
    texts: int,
    copies: int,
    size: tuple[int | None, int | None],
    settings: PasteBack,
    model: ModelSize,
    who: str,
) -> tuple[list[Job], int]:
    """Every hole that is painted, and how many pictures are made."""
    count, holes = max(len(pictures), texts if len(pictures) == 1 else 0), sum(map(len, masks))
    if texts == holes and len(pictures) == 1 and len(masks[0]) > 1:
        count = 1  # a text for every hole
    if texts not in (1, count, holes):
        raise ValueError(
            f"{who}: needs one text, or one for each of {len(pictures)} pictures or of {holes} holes; got {texts}"
        )
    jobs, number = [], 0
    for index in range(count):
        picture = pictures[index % len(pictures)]
        for hole in masks[index % len(pictures)]:
            row = 0 if texts == 1 else index if texts == count else number
            window = _window(hole, size, settings, model)
            jobs += [Job(index * copies + copy, row, picture, hole, window) for copy in range(copies)]
            number += 1
    return jobs, count * copies


def _window(hole: Hole, size: tuple[int | None, int | None], settings: PasteBack, model: ModelSize) -> Window:
    rows, columns = (np.flatnonzero(hole.any(axis)) for axis in (1, 0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    window = choose_window(box, hole.shape[::-1], model, settings.crop, settings.margin)
    work = (size[1] or window.work[0], size[0] or window.work[1])
    return Window(window.left, window.top, window.width, window.height, work)


def _groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs of one size together, in their order."""
    groups: dict[tuple[int, int], list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.window.work, []).append(job)
    return list(groups.values())


def _rows(given: Mapping[str, Any]) -> int:
    """How many texts there are."""
    for name in (*_PER_ROW, *_TEXTS):
        value = given.get(name)
        if isinstance(value, (torch.Tensor, list)):
            return len(value)
    return 1


def _of_rows(given: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """The arguments with texts and embeddings for ``rows``."""
    found = dict(given)
    for name in _PER_ROW:
        if isinstance(given.get(name), torch.Tensor):
            found[name] = given[name][rows if len(given[name]) > 1 else [0] * len(rows)]
    for name in _TEXTS:
        value = given.get(name)
        if isinstance(value, str):
            found[name] = [value] * len(rows)
        elif isinstance(value, list):
            found[name] = [value[row if len(value) > 1 else 0] for row in rows]
    return found


def _converted(results: Sequence[Pixels], output_type: str, who: str) -> Any:
    """As the pipeline's own image processor does it."""
    if output_type == "pil":
        return [Image.fromarray(result) for result in results]
    if len({result.shape for result in results}) > 1:
        raise ValueError(f"{who}: pictures of several sizes cannot be one {output_type!r} array; use 'pil'")
    stacked = np.stack(results).astype(np.float32) / 255
    return stacked if output_type == "np" else torch.from_numpy(stacked).permute(0, 3, 1, 2)
