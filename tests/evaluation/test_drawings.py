"""Folders of drawn images: what one evaluation writes another reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from weft.evaluation import Request, read_drawings, write_drawings


def test_what_is_written_is_read(tmp_path: Path) -> None:
    asked = [Request(0, "a ring", 5), Request(0, "one ring", 5), Request(1, "a star", 1005)]
    images = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    assert list(write_drawings(tmp_path, asked, images)) == images
    found = read_drawings(tmp_path, who="test", captioned=True)
    requests = [one.request for one in found]
    assert requests == [Request("0", "a ring", 5), Request("0", "one ring", 5), Request("1", "a star", 1005)]
    assert [one.read().getpixel((0, 0)) for one in found] == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]


def test_an_earlier_list_does_not_hide_images_that_were_cut_short(tmp_path: Path) -> None:
    asked, images = [Request(n, f"{n} stars", n) for n in range(2)], [Image.new("RGB", (4, 4))] * 2
    list(write_drawings(tmp_path, asked, images))
    next(iter(write_drawings(tmp_path, [Request(0, "a ring", 0)] * 2, images)))
    assert [one.request for one in read_drawings(tmp_path, who="test")] == [None, None]


def test_images_alone_have_no_requests(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a picture")
    found = read_drawings(tmp_path, who="test")
    assert [(one.path.name, one.request) for one in found] == [("a.jpg", None), ("b.png", None)]


def test_rows_without_a_scene_are_scenes_of_their_own(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    rows = [{"file_name": name, "text": "the same"} for name in ("a.png", "b.png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = (one.request for one in read_drawings(tmp_path, who="test"))
    assert first is not None and second is not None
    assert first.scene != second.scene


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("nonsense", "line 1 of .* must be JSON"),
        ('"text"', "line 1 of .* must be JSON"),
        ('{"text": "a ring"}', "line 1 of .* must be JSON"),
        ('{"file_name": "a.png", "text": "a ring", "noise": "loud"}', "whole numbers"),
        ('{"file_name": "gone.png", "text": "a ring"}', "names no file of the folder: 'gone.png'"),
        ('{"file_name": "../a.png", "text": "a ring"}', "names no file of the folder"),
        ('{"file_name": "a.png"}', "every picture needs a caption; a.png has none"),
        ('{"file_name": "a.png", "text": "  "}', "every picture needs a caption; a.png has none"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(row + "\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_drawings(tmp_path, who="test", captioned=True)


def test_a_list_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_bytes('{"file_name": "a.png", "text": "Füße"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"test: .*metadata\.jsonl must be text in UTF-8; .*; save it as such"):
        read_drawings(tmp_path, who="test")


def test_no_folder_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no picture"):
        read_drawings(tmp_path, who="test")
    with pytest.raises(FileNotFoundError, match=r"test: must be a folder of pictures; .* is not there"):
        read_drawings(tmp_path / "gone", who="test")


def test_a_file_that_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("not a picture")
    (found,) = read_drawings(tmp_path, who="test")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as a picture"):
        found.read()
