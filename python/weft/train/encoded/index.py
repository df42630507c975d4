"""``index.json`` of a folder of encoded pairs: what is in it and what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import weft
from weft._files import whole_file
from weft.train.encoded.shards import Layout

INDEX = "index.json"
FORMAT = 1
KINDS = ("latents", "text")


def read_index(folder: Path, *, who: str) -> dict[str, Layout]:
    """The layouts by their names; none where there is no index yet.

    Raises:
        ValueError: It is damaged, or of another version of the format.
    """
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        version = saved["format"]
        if version == FORMAT:
            return {name: Layout.from_json(name, saved[name]) for name in KINDS if name in saved}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{who}: {path} is damaged ({type(error).__name__}: {error}); delete it and run again, which keeps the "
            "other files"
        ) from error
    raise ValueError(
        f"{who}: {path} must be of format {FORMAT}; it is of {version!r}; choose another folder, or the version of "
        f"weft that made it ({saved.get('weft')})"
    )


def write_index(folder: Path, layouts: Mapping[str, Layout], base_name: str) -> None:
    """Say what the shards are, before there are any."""
    about = {"format": FORMAT, "weft": weft.__version__, "base_model": base_name}
    with whole_file(folder / INDEX) as temporary:
        content = {**about, **{name: layout.as_json() for name, layout in layouts.items()}}
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_same(saved: Layout, layout: Layout, folder: Path, *, who: str) -> Layout:
    """``layout``, in files as large as those of ``saved``, if it is of the same kind of rows.

    Raises:
        ValueError: It is not; the message says what differs.
    """
    was, now = ({**of.identity, "tensors": of.tensors} for of in (saved, layout))
    other = [key for key in sorted({*was, *now}) if was.get(key) != now.get(key)]
    if other:
        differences = "; ".join(f"`{key}` was {was.get(key)!r}, is {now.get(key)!r}" for key in other)
        raise ValueError(
            f"{who}: {folder} holds {saved.name} of something else: {differences}; choose another folder, or the "
            "old settings"
        )
    return replace(layout, rows_per_shard=saved.rows_per_shard)
