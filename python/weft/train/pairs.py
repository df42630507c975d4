"""Pictures with captions, from wherever the user keeps them; those that are missing are passed over and counted."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from weft.train.images import SUFFIXES, read_image

METADATA = "metadata.jsonl"  # of an image folder, as the datasets library has it
CAPTION_COLUMNS = ("text", "caption", "captions")


@dataclass(frozen=True)
class Pair:
    """One picture and what it shows.

    Attributes:
        image: A file, or the picture itself.
        captions: One or several; training draws one each time.
        name: Of the picture, within its folder or by its row.
    """

    image: Path | Image.Image
    captions: tuple[str, ...]
    name: str

    def read(self) -> Image.Image:
        """The picture as RGB. Raises FileNotFoundError or ValueError where it cannot be read."""
        return read_image(self.image)


def read_pairs(
    data: Any,
    *,
    smallest: int = 1,
    fits: Callable[[str], bool] = lambda caption: True,
    most_missing: float = 0.01,
    who: str,
) -> tuple[Pair, ...]:
    """Every pair whose picture can be used and whose caption says something.

    Args:
        data: A folder: with ``metadata.jsonl`` (rows of ``file_name`` and ``text``), or a text file beside every
            picture, a caption a line. Or a sequence of (picture, caption), or of rows with "image" and "text" or
            "caption", such as a dataset of the datasets library; several captions as a list.
        smallest: Pixels that the shorter side of a picture must have.
        fits: Whether a caption is short enough for the text encoder.
        most_missing: The share of pairs that may be passed over, with a warning, before it is an error.
        who: For messages.

    Raises:
        TypeError: Something else.
        FileNotFoundError: A folder that is not there.
        ValueError: Too many pairs without a picture or a caption, fewer than two, or only one caption among them.
    """
    found, missing = [], []
    for number, (image, captions) in enumerate(_rows(data, who)):
        image = Path(image) if isinstance(image, str) else image
        name = image.name if isinstance(image, Path) else f"row {number}"
        texts = tuple(caption.strip() for caption in captions if isinstance(caption, str) and caption.strip())
        short = tuple(text for text in texts if fits(text))
        reason = _reason(image, smallest) or ("" if short else "its caption is too long" if texts else "no caption")
        if reason:
            missing.append(f"{name}: {reason}")
        else:
            found.append(Pair(image, short, name))
    total = len(found) + len(missing)
    if missing:
        said = f"{len(missing)} of {total} pairs are passed over, the first is {missing[0]}"
        if len(missing) > most_missing * total:
            raise ValueError(f"{who}: {said}; at most {most_missing:.0%} may be; mend the data, or allow more")
        warnings.warn(f"{who}: {said}", stacklevel=3)
    if len(found) < 2:
        raise ValueError(f"{who}: needs at least two pairs of a picture and a caption; got {len(found)}")
    if len({caption for pair in found for caption in pair.captions}) < 2:
        raise ValueError(
            f"{who}: captions must differ, or no picture has a wrong one; all say {found[0].captions[0]!r}"
        )
    return tuple(found)


def _reason(image: Any, smallest: int) -> str:
    """Why a picture cannot be used; empty if it can. Of a file only the head is read."""
    if image is None or (isinstance(image, Path) and not image.is_file()):
        return "no picture"
    if isinstance(image, Path):
        try:
            with Image.open(image) as opened:
                size = opened.size
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
            return f"cannot be read as a picture ({error})"
    elif isinstance(image, Image.Image):
        size = image.size
    else:
        return f"a {type(image).__name__} is no picture"
    return "" if min(size) >= smallest else f"too small, {size[0]} x {size[1]} pixels for at least {smallest}"


def digest(pairs: Sequence[Pair]) -> str:
    """A name for these pictures and captions: of a file its name and size, wherever it lies."""
    sha = hashlib.sha256()
    for pair in pairs:
        content = pair.image.stat().st_size if isinstance(pair.image, Path) else pair.image.tobytes()
        sha.update(repr((pair.name, content, pair.captions)).encode())
    return sha.hexdigest()[:16]


def _rows(data: Any, who: str) -> Iterator[tuple[Any, Sequence[Any]]]:
    """(picture, captions) as they are given, whole or not."""
    if isinstance(data, (str, Path)):
        yield from _of_folder(Path(data), who)
        return
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise TypeError(
            f"{who}: pairs must be a folder, a sequence of (picture, caption), or of rows with 'image' and 'text'; "
            f"got {type(data).__name__}"
        )
    for row in data:
        if isinstance(row, Mapping):
            column = next((name for name in CAPTION_COLUMNS if row.get(name) is not None), None)
            yield row.get("image"), _listed(None if column is None else row[column])
        elif isinstance(row, Sequence) and not isinstance(row, str) and len(row) == 2:
            yield row[0], _listed(row[1])
        else:
            raise TypeError(f"{who}: a pair must be (picture, caption), or a row with 'image' and 'text'; got {row!r}")


def _listed(captions: Any) -> Sequence[Any]:
    return captions if isinstance(captions, Sequence) and not isinstance(captions, str) else (captions,)


def _of_folder(folder: Path, who: str) -> Iterator[tuple[Path, Sequence[Any]]]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{who}: pairs must be a folder; there is none at {folder}")
    listing = folder / METADATA
    if not listing.is_file():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in SUFFIXES:
                text = path.with_suffix(".txt")
                yield path, text.read_text(encoding="utf-8").splitlines() if text.is_file() else ()
        return
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            path = (folder / row["file_name"]).resolve()
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{who}: line {number} of {listing} must be JSON with `file_name` and `text`; got {line[:80]!r}"
            ) from error
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(
                f"{who}: line {number} of {listing} names a file outside the folder: {row['file_name']!r}"
            )
        column = next((name for name in CAPTION_COLUMNS if row.get(name) is not None), None)
        yield path, _listed(None if column is None else row[column])
