"""What cannot be inpainted is refused once, with what came and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import inpainting
import numpy as np
import pytest
import tiny_pipelines as tiny
from diffusers import StableDiffusion3InpaintPipeline, StableDiffusionPipeline
from PIL import Image

import weft
from weft import shapes
from weft.methods.inpainting.pictures import read_masks, read_pictures

WHO = "TaskPrompts"
PICTURE = inpainting.picture()
SEE_THROUGH = Image.merge("RGBA", [*PICTURE.split(), Image.new("L", (64, 64), 7)])


def hole_of(mask: Any, picture: Any = PICTURE) -> np.ndarray:
    return read_masks(mask, read_pictures(picture, who=WHO), who=WHO)[0][0]


def palette(image: Image.Image) -> Image.Image:
    return image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (SEE_THROUGH, r"must be opaque; it has transparent pixels \(alpha down to 7\).*Image\.alpha_composite"),
        (Image.new("CMYK", (64, 64)), r"mode 'CMYK'; convert it first"),
        (Image.new("I;16", (64, 64)), r"must have 8 bits a channel.*'I;16'"),
        (Image.new("F", (64, 64)), r"'F'"),
    ],
)
def test_pictures_that_rgb_cannot_hold(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_pictures(image, who=WHO)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64, 3), np.float32), r"must be \[h, w\] or \[h, w, 3\] of uint8, 0 to 255; got .* float32"),
        (np.zeros((2, 64, 64, 3), np.uint8), r"got \[2, 64, 64, 3\] of uint8"),
        (None, r"must be a PIL image, a file, or an array of uint8; got NoneType"),
        (inpainting.vectors()["context"][0], r"got Tensor; tensors are converted by diffusers"),
    ],
)
def test_things_that_are_no_pictures(image: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        read_pictures(image, who=WHO)


def test_pictures_that_say_the_same_otherwise_are_taken_without_loss(tmp_path: Path) -> None:
    pixels = np.asarray(PICTURE)
    opaque = PICTURE.copy()
    opaque.putalpha(255)
    PICTURE.save(tmp_path / "picture.png")
    for image in (PICTURE, opaque, tmp_path / "picture.png", str(tmp_path / "picture.png"), pixels):
        assert np.array_equal(read_pictures(image, who=WHO)[0], pixels)
    few = palette(PICTURE)
    assert np.array_equal(read_pictures(few, who=WHO)[0], np.asarray(few.convert("RGB")))
    grey = read_pictures(PICTURE.convert("L"), who=WHO)[0]
    assert grey.shape == (64, 64, 3) and np.array_equal(grey[..., 0], np.asarray(PICTURE.convert("L")))


def test_a_palette_with_a_transparent_entry_is_refused() -> None:
    few = palette(PICTURE)
    few.info["transparency"] = few.getpixel((0, 0))
    with pytest.raises(ValueError, match=r"must be opaque"):
        read_pictures(few, who=WHO)


def test_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.png for the picture"):
        read_pictures(tmp_path / "absent.png", who=WHO)
    (tmp_path / "notes.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"notes\.png cannot be read as a picture"):
        read_pictures(tmp_path / "notes.png", who=WHO)
    PICTURE.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.png cannot be read as a picture"):
        read_pictures(tmp_path / "cut.png", who=WHO)
    with pytest.raises(ValueError, match=r"needs at least one picture"):
        read_pictures([], who=WHO)
    masks = [tmp_path / "hole.png", tmp_path / "small.png"]
    inpainting.box_mask().save(masks[0])
    inpainting.box_mask(size=(32, 64)).save(masks[1])
    with pytest.raises(ValueError, match=r"the mask .*small\.png must be as large as the picture"):
        read_masks(masks, read_pictures(PICTURE, who=WHO), who=WHO)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (inpainting.box_mask(size=(32, 64)), r"as large as the picture, 64 x 64 pixels; it has 32 x 64"),
        (Image.new("L", (64, 64)), r"this one is black everywhere \(its largest grey level is 0, 128 is needed\)"),
        (Image.new("L", (64, 64), 100), r"its largest grey level is 100"),
        (Image.new("L", (64, 64), 255), r"white everywhere; .*text-to-image.*invert it"),
        (PICTURE, r"has colours; are picture and mask exchanged\?"),
        (Image.new("RGBA", (64, 64)), r"the mask must be opaque"),
    ],
)
def test_masks_that_say_nothing(mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hole_of(mask)


def test_masks_that_say_the_same_otherwise() -> None:
    mask = inpainting.box_mask()
    expected = np.asarray(mask) > 0
    opaque = mask.convert("RGB")
    opaque.putalpha(255)
    for same in (mask, mask.convert("1"), mask.convert("RGB"), opaque, mask.convert("P"), expected, np.asarray(mask)):
        assert np.array_equal(hole_of(same), expected)
    assert np.array_equal(hole_of(mask.point(lambda level: level // 2 + 1)), expected), "128 is enough"


def test_numbers_of_masks() -> None:
    mask, pictures = inpainting.box_mask(), read_pictures([PICTURE] * 3, who=WHO)
    assert [len(group) for group in read_masks(mask, pictures, who=WHO)] == [1, 1, 1]
    assert [len(group) for group in read_masks([mask, [mask, mask], mask], pictures, who=WHO)] == [1, 2, 1]
    assert [len(group) for group in read_masks([mask] * 4, pictures[:1], who=WHO)] == [4]
    for masks in ([mask, mask], [mask, [], mask]):
        with pytest.raises(ValueError, match=r"one mask for all pictures or at least one for each; got 3 pictures"):
            read_masks(masks, pictures, who=WHO)


def test_errors_come_through_the_pipeline() -> None:
    pipe, tasks = inpainting.pipeline(), inpainting.tasks()
    mask = inpainting.box_mask()
    with weft.attach(pipe, tasks):
        given = tasks.removal()
        with pytest.raises(ValueError, match=r"black everywhere"):
            pipe(prompt="", image=PICTURE, mask_image=Image.new("L", (64, 64)), **given)
        with pytest.raises(TypeError, match=r"the mask must be a PIL image"):
            pipe(prompt="", image=PICTURE, **given)
        with pytest.raises(ValueError, match=r"`padding_mask_crop` cannot be used"):
            pipe(prompt="", image=PICTURE, mask_image=mask, padding_mask_crop=8, **given)
        with pytest.raises(ValueError, match=r"`output_type` must be 'pil', 'np' or 'pt'"):
            pipe(prompt="", image=PICTURE, mask_image=mask, output_type="png", **given)
        texts = tasks.insert(["a", "b"])
        with pytest.raises(ValueError, match=r"needs one text, or one for each of 3 pictures or of 3 holes; got 2"):
            pipe(prompt="", image=[PICTURE] * 3, mask_image=mask, **texts)


def test_pipelines_that_do_not_inpaint(tmp_path: Path) -> None:
    four = tiny.sd1(tmp_path, type(inpainting.pipeline()))
    tasks = weft.TaskPrompts(inpainting.vectors(32))
    with pytest.raises(ValueError, match=r"with 9 input channels .*; this one has 4, as of a text-to-image model"):
        weft.attach(four, tasks)
    with pytest.raises(ValueError, match=r"needs an inpainting pipeline.*StableDiffusionPipeline takes neither"):
        weft.attach(shapes.pipeline(), inpainting.tasks())
    with pytest.raises(ValueError, match=r"Diffusion 1.x, 2.x or XL; StableDiffusion3InpaintPipeline has no"):
        weft.attach(StableDiffusion3InpaintPipeline(**shapes.pipeline("sd3").components), inpainting.tasks())
    with pytest.raises(TypeError, match=r"needs a pipeline, for its text encoder"):
        weft.attach(inpainting.pipeline().unet, inpainting.tasks())
    with pytest.raises(ValueError, match=r"vectors of width 32 and do not fit this pipeline, .* have 128"):
        weft.attach(inpainting.pipeline(), tasks)
    assert type(shapes.pipeline()) is StableDiffusionPipeline
    with weft.attach(inpainting.pipeline(), inpainting.tasks()):
        pass  # what failed left nothing attached


def test_wrong_tasks() -> None:
    pipe, tasks = inpainting.pipeline(), inpainting.tasks()
    with pytest.raises(ValueError, match=r"`task` must be one of 'removal', 'insert', .*; got 'remove'"):
        tasks.inpaint(pipe, PICTURE, inpainting.box_mask(), "remove")
    with pytest.raises(ValueError, match=r"'removal' needs a `mask`"):
        tasks.inpaint(pipe, PICTURE)
    with pytest.raises(ValueError, match=r"'outpaint' needs no `mask`"):
        tasks.inpaint(pipe, PICTURE, inpainting.box_mask(), "outpaint", left=4)
    with pytest.raises(TypeError, match=r"'removal' has no option 'fit', 'lefft'; it has 'against', .*'words_lead'"):
        tasks.inpaint(pipe, PICTURE, inpainting.box_mask(), fit=0.5, lefft=4)
    with pytest.raises(ValueError, match=r"`left` must be whole pixels, or a share below 1 of the picture; got inf"):
        tasks.inpaint(pipe, PICTURE, task="outpaint", left=float("inf"))
    with pytest.raises(
        ValueError, match=r"the canvas may have 178,956,970 pixels; these sides make [0-9,]+: 10000000"
    ):
        tasks.inpaint(pipe, PICTURE, task="outpaint", left=1e9)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"placement": "behind"}, ValueError, r"`placement` must be one of 'after', 'before', 'released'"),
        ({"dialect": "main-v2"}, ValueError, r"`dialect` must be one of 'weft', 'main-v1', 'dev'"),
        ({"vectors": {"context": ()}}, ValueError, r"must have the prompts 'context', 'shape', 'object'"),
        ({"vectors": dict.fromkeys(inpainting.vectors(), ())}, TypeError, r"must be float tensors, one for each"),
    ],
)
def test_prompts_that_are_none(change: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        weft.TaskPrompts(**{"vectors": inpainting.vectors(), **change})


def test_vectors_that_do_not_belong_together() -> None:
    mixed = {**inpainting.vectors(), "shape": inpainting.vectors(64)["shape"]}
    with pytest.raises(ValueError, match=r"must have the same widths"):
        weft.TaskPrompts(mixed)
    with pytest.raises(ValueError, match=r"must be finite matrices"):
        weft.TaskPrompts({**inpainting.vectors(), "shape": (inpainting.vectors()["shape"][0] * float("nan"),)})
