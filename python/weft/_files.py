"""Files that are whole or absent: written beside their place, then moved there in one step."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and vanishes otherwise.

    Args:
        path: Where the file shall be; its folder exists.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; a result is as readable as any other new file of this user
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` whose files and folders are moved there when the block ends well.

    What is there under other names stays; what has the same name is replaced. Nothing is moved before all is written.

    Args:
        path: Where they shall be; its parent exists.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as name:
        temporary = Path(name) / "new"
        temporary.mkdir()
        yield temporary
        path.mkdir(exist_ok=True)
        for number, made in enumerate(sorted(temporary.iterdir())):
            place = path / made.name
            if place.is_dir():
                place.rename(Path(name) / f"old{number}")
            made.replace(place)


def output_folder(path: Path, *, who: str, option: str = "--out") -> Path:
    """``path`` as an existing folder that can be written to; made if it is not there.

    Args:
        who: The command that asks, named in the error.
        option: By which the folder was chosen, likewise.

    Raises:
        OSError: It is a file, cannot be made, or cannot be written to.
    """
    remedy = f"choose another folder with {option}"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OSError(f"{who}: {option} must be a folder; {path} is a file; {remedy}") from error
    except OSError as error:
        raise OSError(f"{who}: cannot make the folder {path}: {error.strerror}; {remedy}") from error
    try:
        # asked of the file system itself: permission bits say nothing about read-only mounts, or to root
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise OSError(f"{who}: cannot write to the folder {path}: {error.strerror}; {remedy}") from error


def _umask() -> int:
    # the only way to read the mask is to set it
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
