"""Sheets of pictures: rows with a heading, and a title above each picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

TILE = 256  # pixels of one picture on the sheet
CAPTION = 20  # pixels of a line of text


def strip(heading: str, pictures: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """One row of a sheet: the heading, then (title, picture) from left to right; long titles take several lines."""
    font = ImageFont.load_default(size=15)
    titles = [_wrapped(title, font) for title, _ in pictures]
    above = CAPTION * (1 + max(map(len, titles)))
    row = Image.new("RGB", (TILE * len(pictures), TILE + above), "white")
    pen = ImageDraw.Draw(row)
    pen.text((4, 1), heading, fill="black", font=font)
    for column, (lines, (_, picture)) in enumerate(zip(titles, pictures, strict=True)):
        for number, line in enumerate(lines, 1):
            pen.text((column * TILE + 4, number * CAPTION + 1), line, fill="black", font=font)
        # nearest where it grows: the pixels shown are the pixels made
        how = Image.Resampling.NEAREST if picture.width <= TILE else Image.Resampling.LANCZOS
        row.paste(picture.resize((TILE, TILE), how), (column * TILE, above))
    return row


def _wrapped(text: str, font: Any) -> list[str]:
    """Lines that fit over a picture, if no word is longer; one at least."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > TILE - 8:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def stack(rows: Sequence[Image.Image]) -> Image.Image:
    """Rows from top to bottom."""
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet
