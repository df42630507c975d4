"""Folders as two data sets of captioned pictures come: CUB-200-2011 with its ten captions, and COCO."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from weft.train.pictures import Pair, why_unusable

WHO = "fit_gan"
Value = TypeVar("Value")
# lists of classes that share none; where they lie beside the pictures they decide, otherwise the set's own split does
_CLASS_LISTS = {"train": "trainvalclasses.txt", "test": "testclasses.txt"}


def is_cub(folder: Path) -> bool:
    """Whether it looks like CUB: ``images.txt``, ``images/`` and ``text_c10/``."""
    return (folder / "images.txt").is_file() and (folder / "text_c10").is_dir()


def is_coco(folder: Path) -> bool:
    """Whether it looks like COCO: ``annotations/captions_*.json``."""
    return any((folder / "annotations").glob("captions_*.json"))


def read_cub(folder: Path, split: str) -> list[Pair]:
    """Pictures of a split, with class and box.

    Reads ``images.txt``, ``image_class_labels.txt``, ``bounding_boxes.txt``, ``text_c10/CLASS/NAME.txt``, and for the
    split ``trainvalclasses.txt`` and ``testclasses.txt`` (classes without overlap) or ``train_test_split.txt``.

    Raises:
        ValueError: An unknown split, a file that is not there or says something else, a picture without captions.
    """
    if split not in _CLASS_LISTS:
        raise ValueError(f"{WHO}: `split` of {folder} must be train or test; got {split!r}")
    names = {number: rest[0] for number, rest in _rows(folder / "images.txt", 1, str)}
    groups = {number: rest[0] for number, rest in _rows(folder / "image_class_labels.txt", 1, int)}
    boxes = {number: _box(rest) for number, rest in _rows(folder / "bounding_boxes.txt", 4, float)}
    listed = folder / _CLASS_LISTS[split]
    if listed.is_file():
        classes = {line.strip() for line in listed.read_text().splitlines() if line.strip()}
        kept = {number for number, name in names.items() if name.split("/")[0] in classes}
    else:
        wanted = str(int(split == "train"))
        kept = {number for number, rest in _rows(folder / "train_test_split.txt", 1, str) if rest[0] == wanted}
    found = []
    for number in sorted(kept & names.keys(), key=int):
        name = names[number]
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{WHO}: {folder / 'images.txt'} names a file outside the folder: {name!r}")
        path, text = folder / "images" / name, folder / "text_c10" / Path(name).with_suffix(".txt")
        if not path.is_file() or not text.is_file():
            raise ValueError(
                f"{WHO}: {folder / 'images.txt'} names {name}; there is no {text if path.is_file() else path}"
            )
        captions = tuple(line.strip() for line in text.read_text(encoding="utf-8").splitlines() if line.strip())
        found.append(checked(Pair(path, captions, name, group=groups.get(number), box=boxes.get(number))))
    return _enough(found, folder, split)


def read_coco(folder: Path, split: str) -> list[Pair]:
    """Pictures of a split: of ``annotations/captions_SPLIT*.json``, in the folder of the rest of that name.

    Raises:
        ValueError: No such file or several, one that says something else, a picture without captions.
    """
    found = sorted((folder / "annotations").glob(f"captions_{split}*.json"))
    if len(found) != 1:
        known = ", ".join(path.name for path in sorted((folder / "annotations").glob("captions_*.json")))
        raise ValueError(f"{WHO}: `split` must say one of {known} in {folder / 'annotations'}; got {split!r}")
    part = found[0].stem.removeprefix("captions_")
    pictures = next((path for path in (folder / part, folder / "images" / part) if path.is_dir()), None)
    if pictures is None:
        raise ValueError(f"{WHO}: {found[0].name} needs its pictures in {folder / part}, which is not there")
    try:
        listing = json.loads(found[0].read_text(encoding="utf-8"))
        names = {row["id"]: str(row["file_name"]) for row in listing["images"]}
        captions: dict[object, list[str]] = {number: [] for number in names}
        for row in listing["annotations"]:
            captions[row["image_id"]].append(str(row["caption"]).strip())
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{WHO}: {found[0]} must be JSON with `images` of `id` and `file_name`, and `annotations` of `image_id` "
            f"and `caption`; {type(error).__name__}: {error}"
        ) from error
    pairs = []
    for number, name in names.items():
        if Path(name).name != name or not (pictures / name).is_file():
            raise ValueError(f"{WHO}: {found[0].name} names {name}; there is no such file in {pictures}")
        pairs.append(checked(Pair(pictures / name, tuple(filter(None, captions[number])), name)))
    return _enough(pairs, folder, split)


def _rows(path: Path, columns: int, kind: Callable[[str], Value]) -> Iterator[tuple[str, list[Value]]]:
    """Number and the rest of each line."""
    if not path.is_file():
        raise ValueError(f"{WHO}: a folder as CUB has it needs {path.name}; there is none at {path}")
    for line in path.read_text(encoding="utf-8").splitlines():
        number, *rest = line.split() or [""]
        if number:
            try:
                int(number)  # by which they are sorted
                values = [kind(value) for value in rest]
            except ValueError:
                values = []
            if len(values) != columns:
                raise ValueError(f"{WHO}: a line of {path} must be a number and {columns} more; got {line!r}")
            yield number, values


def _box(rest: list[float]) -> tuple[float, float, float, float]:
    x, y, width, height = rest
    return x, y, width, height


def checked(pair: Pair) -> Pair:
    """``pair``, after checking its captions and its picture.

    Raises:
        ValueError: It has no caption with text, or its picture cannot be read.
    """
    if not pair.captions or not all(isinstance(text, str) and text.strip() for text in pair.captions):
        found = f"has {pair.captions!r}" if pair.captions else "has none"
        raise ValueError(f"{WHO}: every picture needs captions; {pair.name} {found}")
    if reason := why_unusable(pair.image):
        raise ValueError(f"{WHO}: every picture must be one; {pair.name}: {reason}")
    return pair


def _enough(pairs: list[Pair], folder: Path, split: str) -> list[Pair]:
    if len(pairs) < 2:
        raise ValueError(f"{WHO}: needs at least two pictures with captions; {split} of {folder} has {len(pairs)}")
    return pairs
