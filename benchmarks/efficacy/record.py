"""What a run found, on disk: the numbers, and the table that people read beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weft._files import whole_file


def publish(record: dict[str, Any], table: Callable[[dict[str, Any]], str], out: Path) -> None:
    """Write ``record`` as JSON and its table as Markdown of the same name, each whole or not at all; and print it."""
    text = table(record)
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, content in ((out, json.dumps(record, indent=1, default=str) + "\n"), (out.with_suffix(".md"), text)):
        with whole_file(path) as temporary:
            temporary.write_text(content)
    print(text)


def day_and_commit(where: dict[str, Any]) -> str:
    """Day and commit of ``circumstances``, for a table; a plus sign says that the commit was not all."""
    commit = where.get("commit", "?") + ("+" if where.get("dirty") else "")
    return f"{where.get('date', '')[:10]}, commit {commit}"
