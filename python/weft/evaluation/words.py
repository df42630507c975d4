"""Options that take a word of ours or a folder, and never one for the other."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path

SHAPES = "shapes"  # the judge where an extractor is asked for, the scenes where pictures are


def is_word(value: str | Path, words: Collection[str], *, option: str) -> bool:
    """Whether a text is one of ``words``; where a folder of that name is there too, a warning says which is taken.

    A path is none: ``Path("shapes")`` is the folder.
    """
    if not isinstance(value, str) or value not in words:
        return False
    if Path(value).is_dir():
        warnings.warn(
            f"evaluate: {option} {value} is taken as that word; give ./{value} for the folder of that name",
            stacklevel=3,
        )
    return True


def given_folder(value: str | Path, words: Collection[str], *, option: str, what: str) -> Path:
    """The folder ``value``, which is there.

    Args:
        words: That could have been given in its place.
        what: It should hold.

    Raises:
        FileNotFoundError: It is not there, or is a file.
    """
    folder = Path(value).expanduser()
    if folder.is_dir():
        return folder
    found = "a file" if folder.exists() else "not there"
    raise FileNotFoundError(
        f"evaluate: {option} must be {' or '.join(map(repr, words))} or a folder of {what}; {str(value)!r} is no such "
        f"word, and as a folder {folder} is {found}; no model id is looked up and nothing is downloaded: fetch it by "
        "`hf download ID --local-dir FOLDER` and give that folder"
    )
