"""A folder of drawn images and what each was drawn from: written by one evaluation, read by another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from weft._files import whole_file
from weft.evaluation.planning import Request
from weft.train.pictures import METADATA, SUFFIXES, read_image


@dataclass(frozen=True)
class Drawing:
    """An image file and what was asked for; of a file without a caption, None."""

    path: Path
    request: Request | None

    def read(self) -> Image.Image:
        """RGB. Raises ValueError where the file is no picture."""
        return read_image(self.path)


def write_drawings(folder: Path, requests: Sequence[Request], images: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """Pass ``images`` on and write each as PNG; in the end ``metadata.jsonl``, which names them all.

    Args:
        folder: Exists.
        requests: One an image; their captions, scenes and noise are written.
    """
    rows = []
    # of earlier images: cut short, these would have the captions of those
    (folder / METADATA).unlink(missing_ok=True)
    for number, (request, image) in enumerate(zip(requests, images, strict=True)):
        name = f"{number:06d}.png"
        with whole_file(folder / name) as temporary:
            image.save(temporary, format="PNG")
        row = {"file_name": name, "text": request.caption, "scene": request.scene, "noise": request.noise}
        rows.append(json.dumps(row))
        yield image
    with whole_file(folder / METADATA) as temporary:
        temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")


def read_drawings(folder: Path, *, who: str, captioned: bool = False) -> list[Drawing]:
    """The images of a folder.

    Args:
        folder: With ``metadata.jsonl``, rows of ``file_name`` and ``text``; ``scene`` and ``noise`` say which images
            show one scene and which come from the same noise, and need not be there. Or images alone.
        who: For messages.
        captioned: Every image must have a caption.

    Raises:
        FileNotFoundError: A folder or file that is not there.
        ValueError: No image, an image without a caption where it must have one, or a row that says something else.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise FileNotFoundError(f"{who}: must be a folder of pictures; {folder} {what}")
    listing = folder / METADATA
    if listing.is_file():
        try:
            lines = enumerate(listing.read_text(encoding="utf-8").splitlines(), 1)
        except UnicodeDecodeError as error:
            raise ValueError(f"{who}: {listing} must be text in UTF-8; {error}; save it as such") from error
        found = [_drawing(folder, line, number, who) for number, line in lines if line.strip()]
    else:
        found = [Drawing(path, None) for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    if not found:
        raise ValueError(f"{who}: the folder {folder} holds no picture ({', '.join(SUFFIXES)})")
    if captioned and (missing := next((one for one in found if one.request is None), None)):
        raise ValueError(
            f"{who}: every picture needs a caption; {missing.path.name} has none; put a row with `file_name` and "
            f"`text` for it into {listing}"
        )
    return found


def _drawing(folder: Path, line: str, number: int, who: str) -> Drawing:
    try:
        row: dict[str, Any] = json.loads(line)
        path, text = (folder / row["file_name"]).resolve(), row.get("text")
        noise = int(row.get("noise", 0))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{who}: line {number} of {folder / METADATA} must be JSON with `file_name` and `text`, and whole numbers "
            f"as `noise`; got {line[:80]!r}"
        ) from error
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise FileNotFoundError(
            f"{who}: line {number} of {folder / METADATA} names no file of the folder: {row['file_name']!r}"
        )
    if not isinstance(text, str) or not text.strip():
        return Drawing(path, None)
    # without a scene, it is unknown which other pictures show the same
    return Drawing(path, Request(str(row.get("scene", f"line {number}")), text.strip(), noise))
