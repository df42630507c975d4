"""Samples by their numbers: kinds in their shares, texts as promised, batches that resume; pictures from folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tiny_pipelines as tiny
import torch
from PIL import Image

from weft import shapes
from weft.train.task_prompts.examples import Examples, MaskedBatches, covered
from weft.train.task_prompts.mixture import Mixture
from weft.train.task_prompts.pictures import MaskedObject, MaskedPicture, digest, read_masked_pictures

WHO = "fit_task_prompts"
SCENES = shapes.MaskedScenes(500)


def examples(**changes: Any) -> Examples:
    return Examples(changes.pop("pictures", SCENES), 64, Mixture(**changes))


def only(kind: str) -> dict[str, float]:
    return {kind: 1.0} if kind not in ("object", "shape") else {kind: 1.0, "context": 1e-12}


def test_a_sample_is_a_function_of_its_number() -> None:
    one, other = examples(), examples()
    for number in (0, 7, 10**6):
        a, b = one.at(number), other.at(number)
        assert np.array_equal(a.pixels, b.pixels) and np.array_equal(a.hole, b.hole) and a.prompt == b.prompt
        assert examples().prompt(number) == a.prompt
    assert not np.array_equal(one.at(1).pixels, one.at(2).pixels)
    assert not np.array_equal(one.at(1).pixels, Examples(SCENES, 64, Mixture(), seed=1).at(1).pixels)


def test_kinds_come_in_their_shares() -> None:
    made = [examples().prompt(number) for number in range(600)]
    prompts = [one.prompt for one in made]
    for prompt, share in (("object", 0.3), ("shape", 0.3), ("context", 0.4 * 0.9), (None, 0.4 * 0.1)):
        assert abs(prompts.count(prompt) / 600 - share) < 4 * np.sqrt(share * (1 - share) / 600), prompt
    of_objects = [one for one in made if one.prompt in ("object", "shape")]
    empty = sum(one.text == "" for one in of_objects) / len(of_objects)
    assert abs(empty - 0.3) < 4 * np.sqrt(0.21 / len(of_objects))
    assert all(one.text == "" for one in made if one.prompt is None), "guidance has neither text nor prompt"
    assert all(one.fit == 1 for one in made if one.prompt != "shape")
    assert {round(one.fit, 1) for one in made if one.prompt == "shape"} >= {0.2, 0.4, 0.6}


@pytest.mark.parametrize("kind", ["object", "shape"])
def test_holes_of_objects_say_what_was_there(kind: str) -> None:
    made = examples(shares=only(kind), caption_dropout=0.0)
    for number in range(20):
        example = made.at(number)
        picture = SCENES[int(np.random.default_rng([0, number]).integers(len(SCENES)))]
        (which,) = [i for i, known in enumerate(picture.objects) if known.caption == example.prompt.text]
        assert example.prompt.prompt == kind
        assert not (picture.mask(which, 64) & ~example.hole).any(), "the hole holds the object"


def test_the_whole_picture_from_its_caption() -> None:
    example = examples(shares=only("image"), dropout=0.0).at(3)
    assert example.hole.all() and example.prompt.text and example.prompt.prompt == "context"


def test_pictures_without_objects_take_part_in_the_other_tasks() -> None:
    pictures = [MaskedPicture(picture.image, picture.caption) for picture in SCENES[:10]]
    made = [examples(pictures=pictures).prompt(number) for number in range(200)]
    assert {one.prompt for one in made} == {"context", None}


def test_random_holes_may_spare_objects() -> None:
    hidden = {
        spares: sum(
            any(
                not (mask & ~example.hole).any()
                for mask in (picture.mask(i, 64) for i in range(len(picture.objects)))
                if mask.any()
            )
            for number in range(250)
            for example in [examples(shares=only("context"), spares_objects=spares).at(number)]
            for picture in [SCENES[int(np.random.default_rng([0, number]).integers(len(SCENES)))]]
        )
        for spares in (False, True)
    }
    assert hidden[False] > 4 and hidden[True] == 0


def test_random_holes_may_look_like_those_of_objects() -> None:
    lent = [
        examples(shares=only("context"), spares_objects=True, borrowed=borrowed).at(number).hole
        for borrowed in (0.0, 1.0)
        for number in range(150)
    ]
    # boxes and outlines of one object are small, and never two apart
    parts = [cv2.connectedComponents(hole.astype(np.uint8))[0] - 1 for hole in lent]
    assert max(parts[:150]) > 1 and max(hole.mean() for hole in lent[150:]) < 0.75
    assert sum(count > 1 for count in parts[150:]) < sum(count > 1 for count in parts[:150]) / 3


def test_words_take_the_place_of_empty_captions() -> None:
    for kind, captioned in (("context", True), ("outpaint", False)):
        made = examples(shares=only(kind), dropout=0.0, context_caption=0.3, worded=0.5)
        texts = [made.at(number).prompt.text for number in range(200)]
        worded, empty = (sum(text == known for text in texts) for known in ("empty scene blur", ""))
        rest = 200 - worded - empty
        assert min(worded, empty) > 40 and abs(worded - empty) < 50 and (40 < rest < 80 if captioned else rest == 0)


def test_shares_are_checked() -> None:
    for shares in ({}, {"remove": 1.0}, {"image": -1.0}):
        with pytest.raises(ValueError, match=r"`shares` must be of 'image', 'outpaint', 'context', 'object', 'shape'"):
            Mixture(shares=shares)
    with pytest.raises(ValueError, match="for guidance"):
        Mixture(shares={"object": 1.0})
    for name in ("dropout", "borrowed", "worded"):
        with pytest.raises(ValueError, match=f"`{name}` must be between 0 and 1; got 2"):
            Mixture(**{name: 2})


def test_batches(tmp_path: Path) -> None:
    pipe = tiny.inpaint(tmp_path)
    made = MaskedBatches(pipe, Examples(SCENES, tiny.SIDE, Mixture()), size=3, timesteps=1000)
    first = made(6)
    again = MaskedBatches(pipe, Examples(SCENES, tiny.SIDE, Mixture()), size=3, timesteps=1000)(6)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    numbers, latents, noise, times, mask, masked, ids = first
    cells = tiny.SIDE // 2
    assert numbers.tolist() == [6, 7, 8] and times.shape == (3,) and ids.shape == (3, 6)
    assert latents.shape == noise.shape == masked.shape == (3, 4, cells, cells) and mask.shape == (3, 1, cells, cells)
    for row, number in enumerate(numbers.tolist()):
        hole = made.examples.at(number).hole
        assert np.array_equal(mask[row, 0].numpy() > 0, covered(hole, 2))
    other = MaskedBatches(pipe, Examples(SCENES, tiny.SIDE, Mixture()), size=3, timesteps=1000, process=1)(3)
    assert other[0].tolist() == [6, 7, 8], "the second process takes the batch after the first's"


def test_what_the_model_is_shown_is_what_inference_shows(tmp_path: Path) -> None:
    """The latents of the masked picture are those that the stock pipeline makes of picture and mask."""
    pipe = tiny.inpaint(tmp_path)
    made = Examples(SCENES, tiny.SIDE, Mixture(shares=only("context")))
    example = made.at(0)
    batch = MaskedBatches(pipe, made, size=1, timesteps=1000)(0)
    mask = np.kron(covered(example.hole, 2), np.ones((2, 2), bool))
    image = pipe.image_processor.preprocess(Image.fromarray(example.pixels))
    hole = pipe.mask_processor.preprocess(Image.fromarray(mask))
    with torch.no_grad():
        posterior = pipe.vae.encode(image * (hole < 0.5)).latent_dist
    scale = pipe.vae.config.scaling_factor
    # the draws differ; both are of this posterior
    assert ((batch[5] - posterior.mean * scale).abs() <= 6 * posterior.std * scale + 1e-4).all()


def test_covered_cells() -> None:
    hole = np.zeros((8, 8), bool)
    hole[3, 5] = True
    assert covered(hole, 4).tolist() == [[False, True], [False, False]]


def write_folder(folder: Path) -> Path:
    folder.mkdir()
    rows = []
    for number, picture in enumerate(SCENES[:3]):
        picture.image.save(folder / f"{number}.png")
        known = []
        for place, entry in enumerate(picture.objects):
            entry.mask.save(folder / f"{number}-{place}.png")
            known.append({"mask": f"{number}-{place}.png", "text": entry.caption})
        rows.append({"file_name": f"{number}.png", "text": picture.caption, "objects": known})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def test_a_folder_says_the_same_as_the_scenes(tmp_path: Path) -> None:
    found = read_masked_pictures(write_folder(tmp_path / "data"), who=WHO)
    assert digest(found) == digest(SCENES[:3]) != digest(SCENES[:2])
    for one, other in zip(found, SCENES[:3], strict=True):
        assert np.array_equal(one.square(64), other.square(64))
        for number in range(len(other.objects)):
            assert np.array_equal(one.mask(number, 32), other.mask(number, 32))


def test_squares_are_of_the_middle() -> None:
    wide = Image.new("RGB", (120, 40), "red")
    wide.paste("blue", (40, 0, 80, 40))
    mask = Image.new("L", (120, 40))
    mask.paste(255, (0, 0, 60, 40))
    picture = MaskedPicture(wide, objects=(MaskedObject(mask, "a thing"),))
    assert (picture.square(20)[:, 3:-3] == (0, 0, 255)).all(), "but for what resampling takes from beyond the edge"
    assert picture.mask(0, 20)[:, :10].all() and not picture.mask(0, 20)[:, 10:].any()


def test_a_folder_of_pictures_alone(tmp_path: Path) -> None:
    SCENES[0].image.save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("nothing")
    (found,) = read_masked_pictures(tmp_path, who=WHO)
    assert found.objects == () and found.caption == ""


def test_data_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is none at"):
        read_masked_pictures(tmp_path / "absent", who=WHO)
    with pytest.raises(ValueError, match="needs at least one picture; got none"):
        read_masked_pictures(tmp_path, who=WHO)
    with pytest.raises(TypeError, match=r"a sequence of weft\.train\.MaskedPicture; got list"):
        read_masked_pictures([Image.new("RGB", (8, 8))], who=WHO)
    folder = write_folder(tmp_path / "data")
    for line, message in (
        ("{", "must be JSON with `file_name`"),
        ('{"text": "a"}', "must be JSON with `file_name`"),
        ('{"file_name": "../a.png"}', "is outside the folder"),
        ('{"file_name": "0.png", "objects": [{"text": "a"}]}', "must be JSON with `file_name`"),
    ):
        (folder / "metadata.jsonl").write_text(line)
        with pytest.raises(ValueError, match=message):
            read_masked_pictures(folder, who=WHO)
    (folder / "metadata.jsonl").write_text('{"file_name": "absent.png"}')
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.png"):
        read_masked_pictures(folder, who=WHO)


def test_offset_noise_is_one_number_a_channel() -> None:
    pipe = shapes.pipeline()
    plain, offset = (MaskedBatches(pipe, examples(), 4, 1000, offset_noise=amount)(8) for amount in (0.0, 0.3))
    added = offset[2] - plain[2]
    assert (added - added[..., :1, :1]).abs().max() < 1e-6 and added[..., 0, 0].unique().numel() == added.shape[0] * 4
    assert all(torch.equal(a, b) for place, (a, b) in enumerate(zip(plain, offset, strict=True)) if place != 2)


def test_a_power_below_one_draws_noisier_times() -> None:
    pipe = shapes.pipeline()
    even, noisy = (MaskedBatches(pipe, examples(), 32, 1000, timestep_power=power)(0)[3] for power in (1.0, 0.5))
    assert torch.allclose(noisy / 1000, (even / 1000).sqrt(), atol=0.05) and noisy.max() < 1000
