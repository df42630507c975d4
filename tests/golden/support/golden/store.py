"""Where the record lies, and how rows are read and written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

RECORD = Path(__file__).parents[2] / "record"
CONTENT = "content.json"


def path_of(name: str) -> Path:
    """The file of a row of numbers."""
    return RECORD / f"{name}.safetensors"


def read_row(name: str) -> dict[str, Tensor]:
    """Stored numbers.

    Raises:
        FileNotFoundError: There are none.
    """
    return load_file(path_of(name))


def write_row(name: str, tensors: dict[str, Tensor]) -> None:
    """Store numbers."""
    path_of(name).parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path_of(name))


def read_content(name: str) -> dict[str, str]:
    """The stored description of what is in a folder of files."""
    found: dict[str, str] = json.loads((RECORD / name / CONTENT).read_text())
    return found


def write_files(name: str, made: Path, content: Any) -> None:
    """Store a folder of files and the description of what is in it, in place of what was there."""
    shutil.rmtree(RECORD / name, ignore_errors=True)
    shutil.copytree(made, RECORD / name)
    (RECORD / name / CONTENT).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def recorded() -> set[str]:
    """Names of everything stored."""
    rows = {str(path.relative_to(RECORD).with_suffix("")) for path in RECORD.rglob("*.safetensors")}
    folders = {str(path.parent.relative_to(RECORD)) for path in RECORD.rglob(CONTENT)}
    return {name for name in rows if not any(name.startswith(f"{folder}/") for folder in folders)} | folders
