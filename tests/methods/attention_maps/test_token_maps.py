"""Pictures of maps: sizes, the right place hot, and the sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import weft
from weft.methods.attention_maps.token_maps import TokenMaps


@pytest.fixture
def maps() -> TokenMaps:
    """Two images; "circle" is hot top left in the first and nowhere in the second, 3 is hot bottom right."""
    circle, three = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)
    circle[0, :2, :2] = 0.5
    three[:, -2:, -2:] = 0.01
    return TokenMaps({"circle": circle, 3: three})


def brightness(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(float).sum(-1)


def test_it_is_a_mapping_from_tokens_to_tensors(maps: TokenMaps) -> None:
    assert list(maps) == ["circle", 3] and len(maps) == 2
    assert maps["circle"].shape == (2, 8, 8)
    assert repr(maps) == "TokenMaps('circle', 3; each [2, 8, 8])"
    with pytest.raises(KeyError, match="no map of 'square' was read; there are 'circle', 3"):
        maps["square"]


def test_heat_alone_is_bright_where_the_map_is_large(maps: TokenMaps) -> None:
    picture = maps.image("circle")
    assert picture.size == (256, 256) and picture.mode == "RGB"
    light = brightness(picture)
    assert light[:48, :48].min() > 2 * light[128:, 128:].max()


def test_heat_over_an_image_leaves_cold_places_as_they_are(maps: TokenMaps) -> None:
    grey = Image.new("RGB", (64, 48), (90, 90, 90))
    picture = maps.image(3, over=grey, index=1)
    assert picture.size == grey.size
    pixels = np.asarray(picture)
    assert (pixels[:24, :32] == 90).all()
    assert (pixels[-8:, -8:] != 90).all()


def test_a_map_that_is_zero_draws_the_image_itself(maps: TokenMaps) -> None:
    grey = Image.new("L", (64, 64), 90)
    assert (np.asarray(maps.image("circle", over=grey, index=1)) == 90).all()


def test_axes_that_were_kept_are_averaged_for_the_picture(maps: TokenMaps) -> None:
    kept = TokenMaps(
        {"circle": maps["circle"].expand(3, 5, -1, -1, -1)}, layers=("a", "b", "c"), steps=tuple(range(5))
    )
    assert kept.image("circle").tobytes() == maps.image("circle").tobytes()


def test_an_image_that_does_not_exist(maps: TokenMaps) -> None:
    with pytest.raises(IndexError, match="below the 2 images; got 2"):
        maps.image("circle", index=2)


def test_the_sheet_has_a_row_per_image_and_a_column_per_token(maps: TokenMaps) -> None:
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green")]
    sheet = maps.grid(images)
    assert sheet.width > 3 * 64 and sheet.height > 2 * 64
    pixels = np.asarray(sheet)
    assert (pixels == (255, 0, 0)).all(-1).sum() > 64 * 64, "the image, and where its maps are cold"
    assert (pixels == (0, 128, 0)).all(-1).sum() > 64 * 64
    assert (pixels.sum(-1) < 200).any(), "captions are dark on white"
    without = maps.grid()
    assert without.width < sheet.width * 10 and without.mode == "RGB"
    assert maps.grid(images).tobytes() == sheet.tobytes()


def test_the_sheet_takes_as_many_images_as_maps(maps: TokenMaps) -> None:
    with pytest.raises(ValueError, match="must be the 2 images of the maps; got 1"):
        maps.grid(Image.new("RGB", (8, 8)))


def test_pictures_of_a_real_generation(tmp_path: Path) -> None:
    import tiny_pipelines as tiny

    pipe = tiny.sd1(tmp_path)
    with weft.attach(pipe, weft.AttentionMaps(["circle", "square"])) as attachment:
        images = tiny.generate(pipe, num_images_per_prompt=2, output_type="pil")
        overlay = attachment.maps.image("circle", over=images[1], index=1)
        sheet = attachment.maps.grid(images)
    assert overlay.size == images[1].size and overlay.tobytes() != images[1].tobytes()
    assert sheet.width > 3 * images[0].width and sheet.height > 2 * images[0].height


RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "over",
    [
        Image.fromarray(BYTES),
        BYTES,
        BYTES[:, ::-1][:, ::-1],
        BYTES / 255,
        (BYTES / 255).astype(np.float32),
        np.concatenate([BYTES, BYTES[..., :1]], 2),
        torch.from_numpy(BYTES).permute(2, 0, 1),
        torch.from_numpy(BYTES).permute(2, 0, 1) / 255,
    ],
    ids=["pil", "uint8", "strided", "fp64", "fp32", "alpha", "tensor-uint8", "tensor-fp32"],
)
def test_a_picture_may_be_of_any_common_kind(maps: TokenMaps, over: object) -> None:
    picture = maps.image(3, over=over)
    assert picture.tobytes() == maps.image(3, over=Image.fromarray(BYTES)).tobytes()
    assert picture.size == (64, 48)
    assert maps.grid([over, over]).tobytes() == maps.grid([Image.fromarray(BYTES)] * 2).tobytes()


@pytest.mark.parametrize("grey", [BYTES[..., 0], BYTES[..., :1], torch.from_numpy(BYTES[..., 0])], ids=str)
def test_a_grey_picture(maps: TokenMaps, grey: object) -> None:
    assert maps.image(3, over=grey).tobytes() == maps.image(3, over=Image.fromarray(BYTES[..., 0])).tobytes()


def test_a_batch_is_a_sheet(maps: TokenMaps) -> None:
    """As a pipeline gives it with output_type "np" and "pt"."""
    batch = np.stack([BYTES / 255] * 2)
    sheet = maps.grid([Image.fromarray(BYTES)] * 2).tobytes()
    assert maps.grid(batch).tobytes() == sheet
    assert maps.grid(torch.from_numpy(batch).permute(0, 3, 1, 2)).tobytes() == sheet


@pytest.mark.parametrize(
    ("over", "error", "message"),
    [
        ("a.png", TypeError, "must be a PIL image, an array .* or a tensor .*; got str"),
        (BYTES.astype(int), TypeError, "must have uint8 from 0 to 255 or floats from 0 to 1; got int64"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), TypeError, "floats from 0 to 1; got torch.int64"),
        (BYTES.astype(np.float32), ValueError, "floats of the picture must be from 0 to 1; got 0 to 255"),
        (np.full((4, 4, 3), np.nan), ValueError, "must be from 0 to 1; got nan"),
        (BYTES[None], ValueError, r"\[h, w, C\] with C of 1, 3 or 4; got \[1, 48, 64, 3\]; of a batch give one"),
        (torch.from_numpy(BYTES), ValueError, r"\[C, h, w\] with C of 1, 3 or 4; got \[48, 64, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"got \[0, 4, 3\]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_is_one_clear_error(maps: TokenMaps, over: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        maps.image("circle", over=over)
