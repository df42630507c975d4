"""Pictures with captions: where they come from, and what is passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from weft.train.pictures.pairs import digest_of_pairs, digest_of_pictures, read_pairs


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


def test_negatives_of_rows_and_listings(tmp_path: Path) -> None:
    save(tmp_path, "a.png", "b.png", "c.png")
    rows = [
        {"file_name": "a.png", "text": "a cube", "negatives": [" a ball", "", None, "far too long"]},
        {"file_name": "b.png", "text": "a ball", "negatives": "a cube"},
        {"file_name": "c.png", "text": ["a cat", "a dog"], "negatives": None},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with_pictures = [{**row, "image": Image.new("RGB", (8, 8))} for row in rows]
    for data in (tmp_path, with_pictures):
        pairs = read_pairs(data, fits=lambda text: len(text) < 8, who="test")
        assert [pair.negatives for pair in pairs] == [("a ball",), ("a cube",), ()]
        assert pairs[0].texts == ("a cube", "a ball") and pairs[2].texts == ("a cat", "a dog")


def test_a_negative_that_is_a_caption_is_no_negative(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8))
    rows = [{"image": picture, "text": text} for text in "abcd"]
    rows.append({"image": picture, "text": ["e", "f"], "negatives": ["g", "f "]})  # type: ignore[dict-item]
    with pytest.warns(UserWarning, match="1 of 5 pairs .* row 4: 'f' is both a caption and a negative of it"):
        assert len(read(rows, most_missing=0.2)) == 4


def test_a_few_that_are_missing_are_passed_over_and_reported(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8))
    data = [(picture, "a"), (picture, "b"), (picture, " "), (tmp_path / "gone.png", "c"), (None, "d")]
    with pytest.warns(UserWarning, match="3 of 5 pairs are passed over, the first is row 2: no caption"):
        assert len(read(data, most_missing=0.6)) == 2
    with pytest.raises(ValueError, match=r"3 of 5 pairs .* at most 1% may be; fix the data"):
        read(data)


def test_pictures_and_captions_that_cannot_be_used_are_passed_over_by_name(tmp_path: Path) -> None:
    save(tmp_path, "small.png")
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    large = [(Image.new("RGB", (32, 32)), caption) for caption in "abcdefgh"]
    given = [*large, (tmp_path / "small.png", "s"), (tmp_path / "damaged.png", "d"), (large[0][0], "far too long")]
    options = {"smallest": 16, "fits": lambda caption: len(caption) < 5}
    with pytest.warns(UserWarning, match=r"3 of 11 pairs .* small\.png: too small, 8 x 8 pixels for at least 16"):
        assert len(read(given, most_missing=0.3, **options)) == 8
    with pytest.raises(ValueError, match=r"damaged\.png: cannot be read as a picture"):
        read([*large, (tmp_path / "damaged.png", "d")], **options)
    with pytest.raises(ValueError, match="row 8: its caption is too long"):
        read([*large, (large[0][0], "far too long")], **options)


def test_a_name_for_pairs_does_not_depend_on_where_they_lie(tmp_path: Path) -> None:
    def named(folder: Path) -> str:
        return digest_of_pairs(read_pairs([(folder / "a.png", "a"), (folder / "b.png", "b")], who="test"))

    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        save(folder, "a.png", "b.png")
    assert named(tmp_path / "here") == named(tmp_path / "there")
    Image.new("RGB", (80, 8)).save(tmp_path / "there" / "a.png")
    assert named(tmp_path / "here") != named(tmp_path / "there")


def test_a_name_for_pictures_alone() -> None:
    def named(number: int, caption: str, *negatives: str) -> list[str]:
        rows = [{"image": Image.new("RGB", (8, 8), (number, 0, 0)), "text": caption, "negatives": negatives}]
        pairs = read_pairs([*rows, (Image.new("RGB", (8, 8)), "another")], who="test")
        return [digest_of_pairs(pairs), digest_of_pictures(pairs)]

    first = named(1, "a", "b")
    assert named(1, "a", "b") == first
    assert not set(first) & set(named(2, "a", "b"))
    for whole, pictures in (named(1, "c", "b"), named(1, "a", "c"), named(1, "a")):
        assert whole != first[0] and pictures == first[1]


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
        (
            [(Image.new("RGB", (8, 8)), ["a", "a"]), (Image.new("RGB", (8, 8)), "a")],
            ValueError,
            "captions must differ",
        ),
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
