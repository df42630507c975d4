"""Sheets of pictures: rows with a heading, and a title above each picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

TILE = 160  # pixels of one picture on the sheet
CAPTION = 16  # pixels of a line of text


def strip(heading: str, pictures: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """One row of a sheet: the heading, then (title, picture) from left to right."""
    font = ImageFont.load_default(size=12)
    row = Image.new("RGB", (TILE * len(pictures), TILE + 2 * CAPTION), "white")
    pen = ImageDraw.Draw(row)
    pen.text((4, 1), heading, fill="black", font=font)
    for column, (title, picture) in enumerate(pictures):
        pen.text((column * TILE + 4, CAPTION + 1), title, fill="black", font=font)
        # nearest where it grows: the pixels shown are the pixels made
        how = Image.Resampling.NEAREST if picture.width <= TILE else Image.Resampling.LANCZOS
        row.paste(picture.resize((TILE, TILE), how), (column * TILE, 2 * CAPTION))
    return row


def stack(rows: Sequence[Image.Image]) -> Image.Image:
    """Rows from top to bottom."""
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet
