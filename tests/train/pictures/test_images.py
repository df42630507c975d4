"""Reference pictures: where they come from, how they are cut, and what is reported of those that are no use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from weft.train.pictures.images import digest_of_views, read_images, views


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    image = Image.new("RGB", (width, height))
    image.putdata([(255 * x // width, 255 * y // height, 0) for y in range(height) for x in range(width)])
    return image


def test_a_folder_is_read_in_order_and_other_files_are_left_alone(tmp_path: Path) -> None:
    for number, suffix in enumerate((".png", ".JPG", ".webp")):
        Image.new("L", (8 + number, 8)).save(tmp_path / f"{number}{suffix}")
    (tmp_path / "notes.txt").write_text("mine")
    assert [(image.mode, image.width) for image in read_images(tmp_path)] == [("RGB", 8), ("RGB", 9), ("RGB", 10)]
    listed = read_images([tmp_path / "2.webp", str(tmp_path / "0.png"), Image.new("RGBA", (5, 5))])
    assert [image.width for image in listed] == [10, 8, 5]


def test_pictures_are_turned_as_the_camera_meant_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    gradient(20, 10).save(tmp_path / "photo.jpg", exif=exif)
    assert read_images(tmp_path)[0].size == (10, 20)


def test_the_first_view_is_the_centre() -> None:
    (view,) = views([gradient(40, 20)], 20)
    assert view.pixels.shape == (3, 20, 20)
    assert (view.original, view.corner) == ((20, 40), (0, 10))
    assert -0.55 < view.pixels[0].min() < -0.45 and 0.4 < view.pixels[0].max() < 0.5


def test_crops_and_mirror_images() -> None:
    found = views([gradient(64, 48)] * 2, 16, crops=3, flip=True)
    assert len(found) == 2 * 3 * 2
    assert all(torch.equal(a.pixels, b.pixels.flip(-1)) for a, b in zip(found[::2], found[1::2], strict=True))
    corners = {view.corner for view in found}
    assert len(corners) == 5, "random squares differ from picture to picture"
    assert digest_of_views(found) == digest_of_views(views([gradient(64, 48)] * 2, 16, crops=3, flip=True))
    assert digest_of_views(found) != digest_of_views(views([gradient(64, 48)] * 2, 16, crops=3, flip=True, seed=1))


def test_what_is_no_picture_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be a folder of pictures; .*nowhere is not there"):
        read_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"the folder .* holds no picture \(\.png"):
        read_images(tmp_path)
    with pytest.raises(ValueError, match="needs at least one picture; got none"):
        read_images([])
    with pytest.raises(FileNotFoundError, match=r"there is no file .*cat\.png"):
        read_images([tmp_path / "cat.png"])
    whole = tmp_path / "whole.png"
    gradient(40, 40).save(whole)
    for name, data in {"half.png": whole.read_bytes()[:-40], "text.png": b"hello", "empty.jpg": b""}.items():
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name} cannot be read as a picture"):
            read_images(folder)
    with pytest.raises(FileNotFoundError, match=r"must be a folder of pictures; .* is a file"):
        read_images(whole)
    with pytest.raises(TypeError, match="must be files or PIL images; got int"):
        read_images([3])
    with pytest.raises(TypeError, match="must be a folder, or a sequence of files or PIL images; got Image"):
        read_images(gradient(8, 8))


def test_tiny_pictures_are_reported() -> None:
    views([gradient(16, 40)], 64)
    with pytest.raises(ValueError, match=r"picture 2 of 2 is too small: 15 x 40 pixels .* must be at least 16"):
        views([gradient(64, 64), gradient(15, 40)], 64)
