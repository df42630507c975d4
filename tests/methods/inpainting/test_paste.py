"""Pixels outside the hole keep their bits, at every size, blend and number of pictures; and where the model works."""

from __future__ import annotations

from typing import Any

import cv2
import inpainting
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import weft
from weft.methods.inpainting.job import Job, PasteBack
from weft.methods.inpainting.paste import BLENDS, feathered, paste
from weft.methods.inpainting.window import ModelSize, choose_window

SD = ModelSize(native=512, multiple=8)


@pytest.fixture
def pipe() -> Any:
    return inpainting.pipeline()


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def distance(hole: np.ndarray) -> np.ndarray:
    return cv2.distanceTransform((~hole).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


HOLES = {
    "inside": (slice(12, 30), slice(20, 41)),
    "corner": (slice(0, 20), slice(0, 10)),
    "whole side": (slice(0, 48), slice(50, 60)),
    "one pixel": (slice(5, 6), slice(7, 8)),
}


@pytest.mark.parametrize("hole", HOLES)
@pytest.mark.parametrize("blend", list(BLENDS))
@pytest.mark.parametrize("feather", [0, 1, 6])
def test_pasting_keeps_bits_outside_the_rim(blend: Any, feather: int, hole: str) -> None:
    picture, painted, mask = noise((48, 60, 3), 1), noise((48, 60, 3), 2), np.zeros((48, 60), bool)
    mask[HOLES[hole]] = True
    found = paste(picture, painted, mask, blend, feather)
    reach = 0 if blend == "hard" else feather
    outside = distance(mask) > reach
    assert np.array_equal(found[outside], picture[outside]), "not one bit"
    if blend in ("hard", "feather"):
        assert np.array_equal(found[mask], painted[mask]), "the hole is what was painted"
    assert inpainting.repainted(found, picture).any()


@pytest.mark.parametrize("blend", list(BLENDS))
def test_painting_the_same_changes_nothing(blend: Any) -> None:
    ramp = np.broadcast_to(np.arange(60, dtype=np.uint8)[None, :, None] * 3, (48, 60, 3)).copy()
    mask = np.zeros((48, 60), bool)
    mask[10:30, 12:40] = True
    assert np.abs(paste(ramp, ramp, mask, blend, 4).astype(int) - ramp).max() <= 1


@pytest.mark.parametrize(("blend", "left"), [("feather", 20.0), ("hard", 20.0), ("laplacian", 16.0), ("poisson", 1.0)])
def test_how_much_of_a_difference_in_colour_is_left(blend: Any, left: float) -> None:
    """A darker patch: Poisson takes the colour of the rim, a Laplacian pyramid fades it, the others keep it."""
    ramp = np.broadcast_to(60 + np.arange(96, dtype=np.uint8)[None, :, None], (80, 96, 3)).copy()
    mask = np.zeros((80, 96), bool)
    mask[30:50, 40:60] = True
    found = paste(ramp, ramp - 20, mask, blend, 4)
    error = np.abs(found[mask].astype(int) - ramp[mask])
    assert error.max() <= left + 0.5
    if blend in ("feather", "hard"):
        assert error.min() == left


@given(st.integers(0, 12), st.integers(0, 10_000))
def test_the_feather_is_one_inside_and_zero_beyond(feather: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    hole = rng.random((20, 24)) < 0.02
    hole[int(rng.integers(20)), int(rng.integers(24))] = True
    weights, away = feathered(hole, feather), distance(hole)
    assert (weights[hole] == 1).all() and (weights[away > feather] == 0).all()
    assert ((weights > 0) == (away <= feather)).all(), "all of the rim is used"
    order = np.argsort(away.ravel(), kind="stable")
    assert (np.diff(weights.ravel()[order]) <= 1e-6).all(), "it never rises outwards"


@given(
    st.tuples(st.integers(20, 3000), st.integers(20, 3000)),
    st.data(),
    st.sampled_from(["auto", "on", "off"]),
    st.sampled_from([0.0, 0.5, 2.0]),
)
def test_windows_hold_their_hole_and_lie_in_the_picture(size: Any, data: Any, crop: Any, margin: float) -> None:
    width, height = size
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    window = choose_window((left, top, right, bottom), size, SD, crop, margin)
    assert 0 <= window.left <= left and window.left + window.width <= width and window.left + window.width >= right
    assert 0 <= window.top <= top and window.top + window.height <= height and window.top + window.height >= bottom
    assert all(side % SD.multiple == 0 and side > 0 for side in window.work)
    if crop == "off":
        assert (window.width, window.height) == size and min(window.work) >= SD.native - SD.multiple
    else:
        assert max(window.work) <= 2 * SD.native


@given(st.tuples(st.integers(30, 400), st.integers(30, 400)), st.integers(0, 10_000), st.booleans())
def test_no_pixel_of_a_hole_is_lost_on_the_way_to_the_model(size: Any, seed: int, covers: bool) -> None:
    """Thin lines and single pixels too, whatever the picture is scaled by."""
    rng, (width, height) = np.random.default_rng(seed), size
    hole = rng.random((height, width)) < 0.002
    hole[int(rng.integers(height))] = True
    window = choose_window((0, 0, width, height), size, ModelSize(64, 4), "auto", 0.5)
    job = Job(0, 0, np.zeros((height, width, 3), np.uint8), hole, window)
    mask = np.asarray(job.mask(4, covers)) > 0
    down, across = mask.shape
    rows, columns = np.nonzero(hole)
    centres = ((2 * rows + 1) * down // (2 * height), (2 * columns + 1) * across // (2 * width))
    assert mask[centres].all()
    if covers:
        assert all(cell in (0, 16) for cell in mask.reshape(down // 4, 4, across // 4, 4).sum((1, 3)).ravel())


@pytest.mark.parametrize(
    ("size", "hole", "crop", "window", "work"),
    [
        ((512, 512), (100, 100, 200, 200), "auto", (0, 0, 512, 512), (512, 512)),
        ((300, 200), (100, 100, 150, 150), "auto", (0, 0, 300, 200), (768, 512)),
        # a small hole in a large photo: as many pixels as the model has, not one scaled
        ((3000, 2000), (1000, 900, 1100, 1000), "auto", (794, 694, 512, 512), (512, 512)),
        ((3000, 2000), (0, 0, 100, 100), "auto", (0, 0, 512, 512), (512, 512)),
        ((3000, 2000), (500, 500, 1300, 1100), "auto", (100, 0, 1600, 1600), (512, 512)),
        ((3000, 2000), (1000, 900, 1100, 1000), "on", (936, 836, 228, 228), (512, 512)),
        ((3000, 2000), (1000, 900, 1100, 1000), "off", (0, 0, 3000, 2000), (3000, 2000)),
        ((3000, 2003), (1000, 900, 1100, 1000), "off", (0, 0, 3000, 2003), (3000, 2000)),
        ((4000, 400), (0, 0, 4000, 400), "auto", (0, 0, 4000, 400), (1024, 96)),
    ],
)
def test_windows(size: Any, hole: Any, crop: Any, window: Any, work: Any) -> None:
    found = choose_window(hole, size, SD, crop, 0.5)
    assert (found.left, found.top, found.width, found.height) == window and found.work == work


SIZES = [(64, 64), (100, 75), (40, 50), (301, 203)]
OPTIONS: list[dict[str, Any]] = [{}, {"crop": "on"}, {"crop": "off"}, {"blend": "poisson"}, {"feather": 0}]
# the whole of a large picture takes long and shows nothing new
CALLS = [(size, options) for size in SIZES for options in OPTIONS if max(size) < 200 or "off" not in options.values()]


@pytest.mark.parametrize(("size", "options"), CALLS)
def test_a_call_keeps_size_and_bits(pipe: Any, size: tuple[int, int], options: dict[str, Any]) -> None:
    tasks = inpainting.tasks(paste_back=PasteBack(**options))
    image, mask = inpainting.picture(size=size), inpainting.box_mask((8, 10, 22, 26), size)
    with weft.attach(pipe, tasks):
        found = pipe(prompt="", image=image, mask_image=mask, num_inference_steps=2, **tasks.removal()).images[0]
    away = distance(np.asarray(mask) > 0)
    # the rim is one cell of the latent: 4 pixels of the model, at most 13 of the largest of these pictures
    reach = options.get("feather", 14)
    assert found.size == size and found.mode == "RGB"
    assert not inpainting.changed(found, image)[away > reach].any()
    assert inpainting.changed(found, image)[away == 0].mean() > 0.5


def test_the_model_sees_whole_cells_or_what_diffusers_takes(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    stock = type(pipe).prepare_mask_latents

    def listen(self: Any, mask: Any, *args: Any, **kwargs: Any) -> Any:
        mask, latents = stock(self, mask, *args, **kwargs)
        seen.append(mask[-1, 0].numpy())
        return mask, latents

    monkeypatch.setattr(type(pipe), "prepare_mask_latents", listen)
    line = inpainting.box_mask((30, 1, 31, 63))  # one pixel wide, between the corners of cells
    for covers in (True, False):
        tasks = inpainting.tasks(paste_back=PasteBack(covers_cells=covers))
        with weft.attach(pipe, tasks):
            pipe(prompt="", image=inpainting.picture(), mask_image=line, num_inference_steps=1, **tasks.removal())
    assert seen[0].sum() == 16 and seen[0][:, 7].all()
    assert seen[1].sum() == 0, "diffusers loses the line"


def test_a_batch_has_its_own_masks_and_texts(pipe: Any) -> None:
    tasks = inpainting.tasks()
    images = [inpainting.picture(1), inpainting.picture(2), inpainting.picture(3)]
    masks = [inpainting.box_mask((4, 4, 20, 20)), inpainting.box_mask((40, 40, 60, 60)), inpainting.box_mask()]
    call = {"num_inference_steps": 2}
    with weft.attach(pipe, tasks):
        together = pipe(
            prompt="",
            image=images,
            mask_image=masks,
            generator=[inpainting.generator(seed) for seed in range(3)],
            **call,
            **tasks.insert(["a red star", "a blue ring", "a pink cross"]),
        ).images
        alone = [
            pipe(
                prompt="", image=image, mask_image=mask, generator=inpainting.generator(seed), **call, **given
            ).images[0]
            for seed, (image, mask, given) in enumerate(
                zip(images, masks, map(tasks.insert, ("a red star", "a blue ring", "a pink cross")), strict=True)
            )
        ]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1


def test_pictures_of_several_sizes_at_once(pipe: Any) -> None:
    tasks = inpainting.tasks()
    images = [inpainting.picture(1), inpainting.picture(2, (90, 70)), inpainting.picture(3)]
    masks = [inpainting.box_mask(size=image.size) for image in images]
    with weft.attach(pipe, tasks):
        found = pipe(prompt="", image=images, mask_image=masks, num_inference_steps=1, **tasks.removal()).images
    assert [image.size for image in found] == [image.size for image in images]
    assert all(inpainting.repainted(a, b).any() for a, b in zip(found, images, strict=True))


def test_several_holes_of_one_picture_are_painted_by_themselves(pipe: Any) -> None:
    image = inpainting.picture(size=(200, 200))
    holes = [inpainting.box_mask((4, 4, 20, 20), image.size), inpainting.box_mask((150, 150, 180, 170), image.size)]
    tasks = inpainting.tasks()
    with weft.attach(pipe, tasks):
        for given in (tasks.removal(), tasks.insert(["a red star", "a blue ring"])):
            found = pipe(prompt="", image=image, mask_image=holes, num_inference_steps=1, **given).images
            assert len(found) == 1
            changed = inpainting.changed(found[0], image)
            assert changed[4:20, 4:20].mean() > 0.5 and changed[150:170, 150:180].mean() > 0.5
            assert not changed[40:140].any()


def test_several_pictures_of_one_prompt(pipe: Any) -> None:
    tasks, call = inpainting.tasks(), {"num_inference_steps": 2, "num_images_per_prompt": 2}
    image, mask = inpainting.picture(), inpainting.box_mask()
    generators = [inpainting.generator(0), inpainting.generator(1)]
    with weft.attach(pipe, tasks):
        found = pipe(prompt="", image=image, mask_image=mask, generator=generators, **call, **tasks.removal()).images
        again = pipe(
            prompt="",
            image=image,
            mask_image=mask,
            generator=inpainting.generator(1),
            num_inference_steps=2,
            **tasks.removal(),
        ).images[0]
        assert len(found) == 2 and inpainting.repainted(*found).any()
        assert np.abs(np.asarray(found[1]).astype(int) - np.asarray(again)).max() <= 1
        with pytest.raises(ValueError, match="one generator, or one for each of 2 pictures; got 3"):
            pipe(
                prompt="",
                image=image,
                mask_image=mask,
                generator=[inpainting.generator()] * 3,
                **call,
                **tasks.removal(),
            )


@pytest.mark.parametrize("output_type", ["np", "pt"])
def test_other_kinds_of_output_have_the_same_bits(pipe: Any, output_type: str) -> None:
    tasks, image, mask = inpainting.tasks(), inpainting.picture(), inpainting.box_mask()
    call = {"image": image, "mask_image": mask, "num_inference_steps": 1}
    with weft.attach(pipe, tasks):
        given = tasks.removal()
        pil = pipe(prompt="", **call, **given, generator=inpainting.generator()).images[0]
        (found, flagged) = pipe(
            prompt="", **call, **given, generator=inpainting.generator(), output_type=output_type, return_dict=False
        )
    rows = np.asarray(found[0] if output_type == "np" else found[0].permute(1, 2, 0))
    assert np.array_equal(np.round(rows * 255).astype(np.uint8), np.asarray(pil)) and flagged is None


def test_the_work_size_can_be_chosen(pipe: Any) -> None:
    tasks, image, mask = inpainting.tasks(), inpainting.picture(), inpainting.box_mask()
    with weft.attach(pipe, tasks):
        found = pipe(
            prompt="", image=image, mask_image=mask, height=96, width=80, num_inference_steps=1, **tasks.removal()
        ).images[0]
        assert found.size == image.size
        with pytest.raises(ValueError, match="must be multiples of 4 pixels; got 97 and None"):
            pipe(prompt="", image=image, mask_image=mask, height=97, **tasks.removal())


def test_outpainting_grows_the_canvas(pipe: Any) -> None:
    tasks, image = inpainting.tasks(), inpainting.picture()
    with weft.attach(pipe, tasks):
        given = tasks.outpaint(image, left=16, top=0.5, overlap=6)
        (canvas,), (mask,) = given["image"], given["mask_image"]
        assert canvas.size == mask.size == (80, 96)
        hole = np.asarray(mask)
        assert not hole[32 + 6 :, 16 + 6 :].any() and hole[: 32 + 6].all() and hole[:, : 16 + 6].all()
        assert np.array_equal(np.asarray(canvas)[32:, 16:], np.asarray(image))
        assert (np.asarray(canvas)[:32] == 127).all()
        found = pipe(prompt="", num_inference_steps=1, **given).images[0]
    kept = np.asarray(found)[32 + 6 + 5 :, 16 + 6 + 5 :]  # beyond the rim of 4
    assert np.array_equal(kept, np.asarray(image)[6 + 5 :, 6 + 5 :])


def test_outpainting_of_one_side_overlaps_there_alone() -> None:
    tasks = inpainting.tasks()
    with weft.attach(inpainting.pipeline(), tasks):
        mask = np.asarray(tasks.outpaint(inpainting.picture(), right=8)["mask_image"][0])
        assert mask.shape == (64, 72) and not mask[:, :54].any() and mask[:, 54:].all(), "10 pixels as published"
        for options, message in (
            ({}, "at least one of"),
            ({"left": -1}, "`left` must be whole pixels"),
            ({"left": 2.5}, "`left` must be whole pixels"),
            ({"left": 4, "right": 4, "overlap": 32}, "leave something of the picture's 64 x 64"),
        ):
            with pytest.raises(ValueError, match=message):
                tasks.outpaint(inpainting.picture(), **options)


def test_options_of_pasting_are_checked() -> None:
    with pytest.raises(
        ValueError, match="`blend` must be one of 'feather', 'laplacian', 'poisson', 'hard'; got 'soft'"
    ):
        PasteBack(blend="soft")
    with pytest.raises(ValueError, match="`crop` must be one of"):
        PasteBack(crop=True)
    with pytest.raises(ValueError, match="`feather` must be at least 0"):
        PasteBack(feather=-1)


def test_a_picture_is_not_changed_in_place(pipe: Any) -> None:
    image, tasks = np.array(inpainting.picture()), inpainting.tasks()
    before = image.copy()
    with weft.attach(pipe, tasks):
        found = pipe(
            prompt="", image=image, mask_image=inpainting.box_mask(), num_inference_steps=1, **tasks.removal()
        ).images[0]
    assert np.array_equal(image, before) and isinstance(found, Image.Image)
