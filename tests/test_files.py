"""Files and folders that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from weft._files import whole_file, whole_folder


def test_a_folder_is_replaced_when_all_of_it_is_written(tmp_path: Path) -> None:
    place = tmp_path / "model"
    for text in ("first", "second"):
        with whole_folder(place) as folder:
            (folder / "unet").mkdir()
            (folder / "unet" / text).write_text(text)
            (folder / "index").write_text(text)
        (place / "mine").write_text("stays")
    assert sorted(str(path.relative_to(place)) for path in place.rglob("*")) == [
        "index",
        "mine",
        "unet",
        "unet/second",
    ]
    assert (place / "index").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_was_there_stays_when_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "index").write_text("old")
    with pytest.raises(OSError, match="disk full"), whole_folder(tmp_path / "model") as folder:
        (folder / "index").write_text("new")
        raise OSError("disk full")
    with pytest.raises(OSError, match="disk full"), whole_file(tmp_path / "model" / "index") as path:
        path.write_text("new")
        raise OSError("disk full")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "index"]
    assert (tmp_path / "model" / "index").read_text() == "old"
