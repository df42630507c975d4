"""Grids of what a generator draws while it learns, always of the same captions and noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from weft._files import whole_file
from weft.train.core import torch_generator
from weft.train.gan.generator import Generator, as_bytes
from weft.train.gan.pictures import Pictures

ROWS, NOISES = 8, 3
_GAP = 2  # pixels between tiles


def sampling(
    pictures: Pictures, make: Callable[[], Generator], folder: Path, *, every: int, last: int, seed: int
) -> Callable[[int], None]:
    """What draws a grid after a step, to be called after each: ``step00500.png``.

    A row is a picture, then what is drawn of two of its captions, each with the same noises. ``captions.txt`` has
    both captions of each row.

    Args:
        make: Gives the generator as it is.
        every: Steps between grids.
        last: Step after which there is one too.
    """

    def draw(step: int) -> None:
        if step % every and step != last:
            return
        shown = [pictures[place] for place in range(min(ROWS, len(pictures)))]
        both = [(picture.captions[0], picture.captions[-1]) for picture in shown]
        generator = make()
        noise = torch.randn(len(shown), NOISES, generator.noise_width, generator=torch_generator(seed, 5))
        captions = [caption for pair in both for caption in pair for _ in range(NOISES)]
        drawn = as_bytes(generator(captions, noise[:, None].expand(-1, 2, -1, -1).flatten(0, 2)))
        real = [as_bytes(pictures.view(picture, torch_generator(seed, 6))[None]) for picture in shown]
        rows = [np.concatenate([one, made]) for one, made in zip(real, np.split(drawn, len(shown)), strict=True)]
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / f"step{step:06d}.png") as path:
            _grid(rows).save(path)
        with whole_file(folder / "captions.txt") as path:
            path.write_text("".join(f"{first}\t{second}\n" for first, second in both))

    return draw


def _grid(rows: list[np.ndarray]) -> Image.Image:
    """Rows of tiles [columns, h, w, 3] on white."""
    height, width = rows[0].shape[1:3]
    sheet = Image.new("RGB", (len(rows[0]) * (width + _GAP), len(rows) * (height + _GAP)), "white")
    for down, row in enumerate(rows):
        for across, tile in enumerate(row):
            sheet.paste(Image.fromarray(tile), (across * (width + _GAP), down * (height + _GAP)))
    return sheet
