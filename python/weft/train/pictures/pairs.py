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

from weft.train.pictures.images import SUFFIXES, read_image

METADATA = "metadata.jsonl"  # of an image folder, as the datasets library has it
CAPTION_COLUMNS = ("text", "caption", "captions")
NEGATIVE_COLUMN = "negatives"


@dataclass(frozen=True)
class Pair:
    """One picture and what it shows.

    Attributes:
        image: A file, or the picture itself.
        captions: One or several; training draws one each time.
        name: Of the picture, within its folder or by its row.
        negatives: Captions close to its own that are wrong for it: "a blue circle and a red square".
        group: Number of its class; None where it has none.
        box: (left, top, width, height) in pixels of what matters in it; None for all.
    """

    image: Path | Image.Image
    captions: tuple[str, ...]
    name: str
    negatives: tuple[str, ...] = ()
    group: int | None = None
    box: tuple[float, float, float, float] | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Its captions, then its negatives."""
        return self.captions + self.negatives

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
            "caption", such as a dataset of the datasets library; several captions as a list. Rows may have
            "negatives" too, one or a list.
        smallest: Pixels that the shorter side of a picture must have.
        fits: Whether a caption is short enough for the text encoder; others are left out.
        most_missing: The share of pairs that may be passed over, with a warning, before it is an error.
        who: For messages.

    Raises:
        TypeError: Something else.
        FileNotFoundError: A folder that is not there.
        ValueError: Too many pairs without a picture or a caption, fewer than two, or only one caption among them.
    """
    found, missing = [], []
    for number, (image, *columns) in enumerate(_rows(data, who)):
        image = Path(image) if isinstance(image, str) else image
        name = image.name if isinstance(image, Path) else f"row {number}"
        texts, negatives = (_texts(column) for column in columns)
        short = tuple(text for text in texts if fits(text))
        without = "" if short else "its caption is too long" if texts else "no caption"
        reason = why_unusable(image, smallest) or without
        if both := set(texts) & set(negatives):
            reason = reason or f"{min(both)!r} is both a caption and a negative of it"
        if reason:
            missing.append(f"{name}: {reason}")
        else:
            found.append(Pair(image, short, name, tuple(text for text in negatives if fits(text))))
    total = len(found) + len(missing)
    if missing:
        problem = f"{len(missing)} of {total} pairs are passed over, the first is {missing[0]}"
        if len(missing) > most_missing * total:
            raise ValueError(f"{who}: {problem}; at most {most_missing:.0%} may be; fix the data, or allow more")
        warnings.warn(f"{who}: {problem}", stacklevel=3)
    if len(found) < 2:
        raise ValueError(f"{who}: needs at least two pairs of a picture and a caption; got {len(found)}")
    if len({caption for pair in found for caption in pair.captions}) < 2:
        raise ValueError(
            f"{who}: captions must differ, or no picture has a wrong one; all say {found[0].captions[0]!r}"
        )
    return tuple(found)


def why_unusable(image: Any, smallest: int = 1) -> str:
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


def digest_of_pairs(pairs: Sequence[Pair]) -> str:
    """A name for these pictures and texts."""
    texts = repr([(pair.captions, pair.negatives) for pair in pairs])
    return hashlib.sha256((digest_of_pictures(pairs) + texts).encode()).hexdigest()[:16]


def digest_of_pictures(pairs: Sequence[Pair]) -> str:
    """A name for these pictures: of a file its name and size, wherever it lies."""
    sha = hashlib.sha256()
    for pair in pairs:
        content = pair.image.stat().st_size if isinstance(pair.image, Path) else pair.image.tobytes()
        sha.update(repr((pair.name, content)).encode())
    return sha.hexdigest()[:16]


def number_of(text: str) -> int:
    """63 bits of what ``text`` says."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _texts(column: Any) -> tuple[str, ...]:
    """What a column says; one text or several."""
    several = column if isinstance(column, Sequence) and not isinstance(column, str) else (column,)
    return tuple(text.strip() for text in several if isinstance(text, str) and text.strip())


def _rows(data: Any, who: str) -> Iterator[tuple[Any, Any, Any]]:
    """(picture, captions, negatives) as they are given, whole or not."""
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
            yield row.get("image"), *_columns(row)
        elif isinstance(row, Sequence) and not isinstance(row, str) and len(row) == 2:
            yield row[0], row[1], None
        else:
            raise TypeError(f"{who}: a pair must be (picture, caption), or a row with 'image' and 'text'; got {row!r}")


def _columns(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """Captions and negatives of a row."""
    column = next((name for name in CAPTION_COLUMNS if row.get(name) is not None), None)
    return None if column is None else row[column], row.get(NEGATIVE_COLUMN)


def _of_folder(folder: Path, who: str) -> Iterator[tuple[Path, Any, Any]]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{who}: pairs must be a folder; there is none at {folder}")
    listing = folder / METADATA
    if not listing.is_file():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in SUFFIXES:
                text = path.with_suffix(".txt")
                yield path, text.read_text(encoding="utf-8").splitlines() if text.is_file() else None, None
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
        yield path, *_columns(row)
