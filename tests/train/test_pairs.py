"""Pictures with captions: where they come from, and what is passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from weft.train.pairs import read_pairs


def save(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name)


def read(data: Any, **options: Any) -> list[tuple[Any, tuple[str, ...]]]:
    return [(pair.image, pair.captions) for pair in read_pairs(data, who="test", **options)]


def test_a_text_file_beside_every_picture(tmp_path: Path) -> None:
    save(tmp_path, "b.png", "a.jpg")
    (tmp_path / "a.txt").write_text("a ball\n\nan orange ball \n")
    (tmp_path / "b.txt").write_text("a cube")
    assert read(tmp_path) == [(tmp_path / "a.jpg", ("a ball", "an orange ball")), (tmp_path / "b.png", ("a cube",))]


def test_an_image_folder_of_datasets(tmp_path: Path) -> None:
    save(tmp_path, "a.png", "b.png")
    rows = [{"file_name": "b.png", "text": "a cube"}, {"file_name": "a.png", "captions": ["a ball", "a sphere"]}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert read(tmp_path) == [(tmp_path / "b.png", ("a cube",)), (tmp_path / "a.png", ("a ball", "a sphere"))]


def test_rows_and_tuples(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    picture = Image.new("RGB", (8, 8))
    assert read([(picture, "a"), (str(tmp_path / "a.png"), ["b", "c"])]) == [
        (picture, ("a",)),
        (tmp_path / "a.png", ("b", "c")),
    ]
    assert read([{"image": picture, "caption": "a"}, {"image": picture, "text": ["b"]}])[1] == (picture, ("b",))


def test_a_few_that_are_missing_are_passed_over_and_told(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8))
    data = [(picture, "a"), (picture, "b"), (picture, " "), (tmp_path / "gone.png", "c"), (None, "d")]
    with pytest.warns(UserWarning, match="3 of 5 pairs are passed over, the first is row 2: no caption"):
        assert len(read(data, most_missing=0.6)) == 2
    with pytest.raises(ValueError, match=r"3 of 5 pairs .* at most 1% may be; mend the data"):
        read(data)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("nowhere", FileNotFoundError, "there is none at nowhere"),
        (3, TypeError, "must be a folder, a sequence"),
        ({"image": 1}, TypeError, "got dict"),
        (["a", "b"], TypeError, "a pair must be"),
        ([], ValueError, "at least two pairs .*; got 0"),
        ([(Image.new("RGB", (8, 8)), "a")], ValueError, "at least two pairs .*; got 1"),
        ([(Image.new("RGB", (8, 8)), "a")] * 3, ValueError, "captions must differ, .* all say 'a'"),
    ],
)
def test_what_is_no_pairs(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read(data)


@pytest.mark.parametrize("line", ["{", '{"text": "a"}', "[1]"])
def test_a_listing_that_cannot_be_read(line: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(ValueError, match=r"line 1 of .*metadata\.jsonl must be JSON with `file_name` and `text`"):
        read(tmp_path)


def test_a_listing_stays_in_its_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    save(tmp_path, "secret.png")
    (inside / "metadata.jsonl").write_text(json.dumps({"file_name": "../secret.png", "text": "a"}))
    with pytest.raises(ValueError, match=r"names a file outside the folder: '\.\./secret\.png'"):
        read(inside)
