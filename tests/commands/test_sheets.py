"""Sheets: what is written above a picture stays above it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from weft.commands.sheets import CAPTION, TILE, strip

LONG = "a green cross above a yellow square and a picture of a red triangle"


def test_titles_stay_above_their_pictures() -> None:
    picture = Image.new("RGB", (8, 8), "blue")
    short, long = strip("row", [("one", picture), ("two", picture)]), strip("row", [(LONG, picture), ("", picture)])
    assert short.size == (2 * TILE, TILE + 2 * CAPTION)
    lines = (long.height - TILE) // CAPTION - 1
    assert long.width == 2 * TILE and 2 <= lines <= 4
    titles = np.asarray(long)[CAPTION:-TILE]
    assert (titles[:, :TILE] < 128).any() and (titles[:, TILE:] == 255).all(), "nothing reaches the next picture"
    assert (np.asarray(long)[-TILE:] == (0, 0, 255)).all()
