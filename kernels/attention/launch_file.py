"""Rows of the launch table as files: a user's own, in JSON, and the source of ``launch_table.TABLE`` itself.

Both are written whole to a neighbour that then takes the file's name, so that no reader ever sees half a table.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from . import launch
from .launch_table import ANY_SEQLEN, Row, Tile

KERNELS = tuple(launch.BOTH_LABELS)
LONGEST_LINE = 119
_ROW = re.compile(r' {4}Row\("(\w+)", (\d+), (\d+), (\d+), Tile\(([\d, ]+)\)(?:, (\d+))?\),')

_path_in_use = ""


def use_file(path: str) -> None:
    """Let ``launch.choose_tile`` prefer the rows in ``path``; "" for none. Read once, when the path changes.

    Raises:
        OSError: There is no such file.
        ValueError: It is not a launch table; the message names the row and what must hold.
    """
    global _path_in_use
    if path != _path_in_use:
        launch.use_rows(read_rows(Path(path)) if path else ())
        _path_in_use = path


def read_rows(path: Path) -> dict[Row, str]:
    """The rows of a JSON file as ``write_rows`` writes it, with where and when each was measured."""
    try:
        rows = json.loads(path.read_text())["rows"]
        return {_checked(row): str(row.get("measured", "")) for row in rows}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"attention: {path} is not a launch table: {error}; `weft bench --tune` writes one"
        raise ValueError(message) from error


def write_rows(path: Path, rows: Mapping[Row, str]) -> None:
    """Put ``rows`` into a JSON file; others that it has already stay, those that serve the same calls do not."""
    merged = {_key(row): (row, measured) for row, measured in (read_rows(path) if path.exists() else {}).items()}
    merged |= {_key(row): (row, measured) for row, measured in rows.items()}
    listed = [asdict(row) | {"measured": measured} for _, (row, measured) in sorted(merged.items())]
    _replace(path, json.dumps({"rows": listed}, indent=1) + "\n")


def write_source(path: Path, rows: Mapping[Row, str]) -> None:
    """Put ``rows`` into the source of ``launch_table.py``; every other line stays as it is."""
    _replace(path, with_rows(path.read_text(), rows))


def with_rows(source: str, rows: Mapping[Row, str]) -> str:
    """``source`` of a table with each of ``rows`` in its place among those of its kernel, formatted as ruff does.

    Raises:
        ValueError: The source has no row of that kernel.
    """
    lines = source.splitlines(keepends=True)
    for kernel in {row.kernel: None for row in rows}:
        places = [i for i, line in enumerate(lines) if (row := _row_of(line)) and row.kernel == kernel]
        if not places:
            raise ValueError(f"attention: the launch table has no row of {kernel} to write beside")
        kept = {_key(row): lines[i] for i in places if (row := _row_of(lines[i]))}
        kept |= {_key(row): _line(row, measured) for row, measured in rows.items() if row.kernel == kernel}
        first = places[0]
        lines = [line for i, line in enumerate(lines) if i not in places]
        lines[first:first] = [kept[key] for key in sorted(kept)]
    return "".join(lines)


def _key(row: Row) -> tuple[str, int, int, int, int]:
    """What a row serves; no table has two of the same."""
    return row.kernel, row.arch, row.itemsize, row.max_head_dim, row.max_seqlen_k


def _line(row: Row, measured: str) -> str:
    tile = [getattr(row.tile, field.name) for field in fields(Tile)]
    # what has its default is not written, as in the rest of the table
    numbers = ", ".join(map(str, tile if row.tile.most_tiles != 1 else tile[:-1]))
    limit = f", {row.max_seqlen_k}" if row.max_seqlen_k != ANY_SEQLEN else ""
    served = f'"{row.kernel}", {row.arch}, {row.itemsize}, {row.max_head_dim}'
    line = f"    Row({served}, Tile({numbers}){limit}),"
    return f"{line}  # {measured}"[:LONGEST_LINE].rstrip() + "\n" if measured else f"{line}\n"


def _row_of(line: str) -> Row | None:
    match = _ROW.match(line)
    if match is None:
        return None
    kernel, arch, itemsize, head_dim, tile, limit = match.groups()
    numbers = [int(number) for number in tile.split(",")]
    return Row(kernel, int(arch), int(itemsize), int(head_dim), Tile(*numbers), int(limit or ANY_SEQLEN))


def _checked(given: Mapping[str, Any]) -> Row:
    """The row that a JSON object describes, if a kernel can be launched with it."""
    values = {field.name: given[field.name] for field in fields(Row)}
    tile = {field.name: values["tile"][field.name] for field in fields(Tile)}
    row = Row(**(values | {"tile": Tile(**tile)}))
    numbers = [value for name, value in (values | tile).items() if name not in ("kernel", "tile")]
    powers = (row.tile.block_q, row.tile.block_k)
    rules = {
        f"kernel must be one of {', '.join(KERNELS)}": row.kernel in KERNELS,
        "every number must be a whole one above 0": all(type(n) is int and n > 0 for n in numbers),
        "itemsize must be 2 or 4": row.itemsize in (2, 4),
        "blocks must be powers of two from 16 to 256": all(block in (16, 32, 64, 128, 256) for block in powers),
        "num_warps must be 1, 2, 4, 8 or 16": row.tile.num_warps in (1, 2, 4, 8, 16),
        "block_k of fwd_short must be 128": row.kernel != "fwd_short" or row.tile.block_k == launch.MOST_SHORT_KEYS,
    }
    for rule, holds in rules.items():
        if not holds:
            raise ValueError(f"{rule}; got {dict(given)}")
    return row


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    if path.exists():
        part.chmod(path.stat().st_mode)
    part.replace(path)
