"""Whole evaluations of samplers whose worth is known."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from weft.evaluation import (
    Plan,
    evaluate_drawings,
    evaluate_sampler,
    fid,
    judge_extractor,
    measure,
    module_extractor,
    observe,
    read_drawings,
    requests,
    shapes_pictures,
    table,
)
from weft.evaluation.observing import features_of
from weft.evaluation.samplers import draw, generator_sampler, pipeline_sampler
from weft.evaluation.scenes import folder_pictures
from weft.testing import assert_differs
from weft.train.pictures.pairs import Pair

PLAN = Plan(count=200, groups=6, paraphrases=4, noises=3)
QUICK = Plan(count=24, groups=4, paraphrases=2, noises=2)
NO_FID: Any = ("kid", "cmmd", "captions", "retrieval", "consistency", "diversity")


@pytest.fixture(scope="module")
def whole(pictures: list[Pair], perfect: Any) -> dict[str, Any]:
    return evaluate_sampler(perfect, pictures, judge_extractor(), PLAN)


def test_a_sampler_that_draws_the_truth(whole: dict[str, Any]) -> None:
    found = whole["measures"]
    assert list(found) == ["fid", "kid", "cmmd", "captions", "retrieval", "consistency", "diversity"]
    # some captions are of several scenes, of which it draws the last
    assert found["fid"]["value"] < 8
    assert found["captions"]["correct"]["value"] == 1
    assert found["retrieval"]["mean"] > 0.95
    assert found["retrieval"]["mean"] == pytest.approx(found["retrieval"]["real"]["mean"], abs=0.04)
    # no wording and no noise changes what it draws
    assert found["consistency"]["same_objects"]["value"] == 1
    assert found["diversity"]["value"] == 0 < 10 < found["diversity"]["unrelated"]


def test_every_measure_says_what_it_was_found_from(whole: dict[str, Any]) -> None:
    for row in whole["measures"].values():
        assert {"extractor": "shapes", "features": 192, "resize": "none", "seed": 0}.items() <= row.items()
    for name in ("fid", "kid", "cmmd"):
        assert (whole["measures"][name]["real"], whole["measures"][name]["drawn"]) == (200, 200)
    assert whole["measures"]["retrieval"]["total"] == 200
    assert whole["measures"]["consistency"]["scenes"] == whole["measures"]["diversity"]["scenes"] == 6
    assert json.loads(json.dumps(whole)) == whole


def test_the_table_names_every_measure(whole: dict[str, Any]) -> None:
    text = table(whole["measures"])
    headings = ("FID", "KID", "CMMD", "objects bound", "caption correct", "R-precision", "wordings apart")
    for heading in (*headings, "same objects", "noises apart", "chance 1.0 %", "192 features of 'shapes'"):
        assert heading in text


class Deaf:
    """Draws something else for every noise, whatever the caption says; or, ``mute``, always the same."""

    def __init__(self, mute: bool) -> None:
        self.scenes, self.mute = [pair.read() for pair in shapes_pictures(64, 1, seed=9)], mute

    def __call__(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return [self.scenes[0 if self.mute else np.random.default_rng(seed).integers(64)] for seed in seeds]


@pytest.mark.parametrize("mute", [False, True])
def test_a_sampler_that_does_not_listen(pictures: list[Pair], mute: bool) -> None:
    extractor, without_reader = judge_extractor(), ("fid", "retrieval", "diversity")
    found = evaluate_sampler(Deaf(mute), pictures, extractor, PLAN, measures=without_reader)["measures"]
    read = evaluate_sampler(Deaf(mute), pictures, extractor, QUICK, measures=("captions", "consistency"))["measures"]
    assert read["captions"]["correct"]["value"] < 0.1
    assert found["retrieval"]["mean"] < 0.1
    # consistency alone would praise it; diversity shows a collapse
    assert read["consistency"]["value"] == 0
    assert (found["diversity"]["value"] > 5) == (not mute)
    assert (found["fid"]["value"] > 150) == mute


@pytest.mark.parametrize("name", ["cmmd", "retrieval", "consistency"])
def test_diversity_is_beside_every_measure(pictures: list[Pair], perfect: Any, name: Any) -> None:
    found = evaluate_sampler(perfect, pictures, judge_extractor(), QUICK, measures=(name,))["measures"]
    assert list(found) == [name, "diversity"]
    assert found["diversity"]["scenes"] == QUICK.groups
    assert "noises apart" in table(found)


def test_the_extractor_is_used(pictures: list[Pair], perfect: Any) -> None:
    seen = []

    def corners(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x[:, :, ::32, ::32].flatten(1)

    options: Any = {"measures": ("cmmd", "diversity")}
    ours = evaluate_sampler(perfect, pictures, module_extractor(corners, name="corners"), QUICK, **options)
    # on the real images, on as many others, and on what was drawn
    assert sum(seen) == 2 * QUICK.count + ours["drawn"]
    theirs = evaluate_sampler(perfect, pictures, judge_extractor(), QUICK, **options)
    assert ours["measures"]["cmmd"]["value"] != pytest.approx(theirs["measures"]["cmmd"]["value"], rel=1e-3)
    assert ours["measures"]["cmmd"]["features"] == 12


def test_an_extractor_without_texts_retrieves_nothing(pictures: list[Pair], perfect: Any) -> None:
    extractor = module_extractor(lambda x: x.mean((2, 3)), name="means")
    found = evaluate_sampler(perfect, pictures, extractor, QUICK)["measures"]
    assert found["retrieval"]["absent"] == "the extractor 'means' embeds no texts"
    assert "embeds no texts" in table(found)
    assert found["fid"]["features"] == 3


def test_further_pictures_give_the_floor(pictures: list[Pair], perfect: Any) -> None:
    options: Any = {"extractor": judge_extractor(), "plan": QUICK, "measures": ("cmmd", "kid")}
    found = evaluate_sampler(perfect, pictures, **options)["measures"]
    # two sets of scenes are about as far apart as the truth is from the truth, which is not at all
    assert abs(found["cmmd"]["floor"]) < 0.5
    assert found["cmmd"]["floor"] != pytest.approx(found["cmmd"]["value"], rel=1e-3)
    assert "other real images" in table(found)
    without = evaluate_sampler(perfect, pictures[:47], **options)["measures"]
    assert "floor" not in without["cmmd"]
    assert without["cmmd"]["value"] == found["cmmd"]["value"]


def test_too_few_images_are_refused_before_anything_is_drawn(pictures: list[Pair]) -> None:
    def never(captions: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        raise AssertionError("drawn")

    with pytest.raises(
        ValueError, match=r"192 features.* fid at least 193; there are 24 real and 24 drawn; give more"
    ):
        evaluate_sampler(never, pictures, judge_extractor(), QUICK)


def test_a_distance_of_torchmetrics_without_it_is_refused_before_anything_is_drawn(
    pictures: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(captions: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        raise AssertionError("drawn")

    monkeypatch.setitem(sys.modules, "torchmetrics.image.kid", None)
    with pytest.raises(ImportError, match="kid: needs torchmetrics: pip install torchmetrics"):
        evaluate_sampler(never, pictures, judge_extractor(), QUICK, measures=("kid",))


def test_streaming_is_batch(pictures: list[Pair], perfect: Any) -> None:
    extractor, asked = judge_extractor(), requests(pictures, Plan(count=200, groups=0))
    features = [
        observe(draw(perfect, asked, size), asked, extractor, batch_size=size, with_reader=False).features
        for size in (1, 7, 200)
    ]
    torch.testing.assert_close(features[0], features[2], atol=1e-4, rtol=1e-4)
    real = features_of((pair.read() for pair in shapes_pictures(200, 1, seed=3)), extractor)
    values = [fid(real, found) for found in features]
    assert values[1:] == pytest.approx(values[:1] * 2, rel=1e-4)


def test_kept_images_measure_the_same(tmp_path: Path, pictures: list[Pair], perfect: Any) -> None:
    extractor = judge_extractor()
    drawn = evaluate_sampler(perfect, pictures, extractor, QUICK, measures=NO_FID, keep=tmp_path)
    real = tmp_path / "real"
    real.mkdir()
    for number, pair in enumerate(pictures[: QUICK.count]):
        pair.read().save(real / f"{number:03d}.png")
    drawings, against = read_drawings(tmp_path, who="test"), read_drawings(real, who="test")
    again = evaluate_drawings(drawings, against, extractor, measures=NO_FID)
    # what only captions and further pictures can show
    del drawn["measures"]["retrieval"]["real"], drawn["measures"]["kid"]["floor"], drawn["measures"]["cmmd"]["floor"]
    assert again == drawn


def test_images_without_captions_have_distances_alone(tmp_path: Path, pictures: list[Pair]) -> None:
    for number, pair in enumerate(pictures[:8]):
        pair.read().save(tmp_path / f"{number}.png")
    drawings = read_drawings(tmp_path, who="test")
    found = evaluate_drawings(drawings, drawings, judge_extractor(), measures=NO_FID)
    assert list(found["measures"]) == ["kid", "cmmd", "diversity"]
    # what cannot be measured is not passed over in silence
    (line,) = [line for line in table(found["measures"]).splitlines() if line.startswith("diversity")]
    assert "needs two captions" in line and "`scene` and `noise` of drawn images in metadata.jsonl" in line


def test_what_cannot_be_compared_says_why(pictures: list[Pair], perfect: Any) -> None:
    found = evaluate_sampler(perfect, pictures, judge_extractor(), Plan(count=24, groups=1), measures=NO_FID)
    assert found["measures"]["consistency"]["absent"].startswith("needs two scenes")
    assert found["measures"]["diversity"]["absent"].startswith("needs two captions")


def test_an_unknown_measure_is_refused(pictures: list[Pair], perfect: Any) -> None:
    extractor, asked = judge_extractor(), requests(pictures, Plan(count=2, groups=0))
    observed, unknown = observe(draw(perfect, asked, 2), asked, extractor), ("fidelity",)
    with pytest.raises(ValueError, match=r"knows fid, kid.* got fidelity"):
        measure(observed, observed.features, extractor, measures=unknown)  # type: ignore[arg-type]


def test_a_sampler_that_gives_too_few() -> None:
    asked = requests(shapes_pictures(2, 1), Plan(count=2, groups=0))
    with pytest.raises(ValueError, match="must give 2 pictures; it gave 1"):
        list(draw(lambda captions, seeds: [Image.new("RGB", (4, 4))], asked, 2))


def test_a_sampler_that_gives_something_else() -> None:
    asked = requests(shapes_pictures(2, 1), Plan(count=2, groups=0))
    with pytest.raises(TypeError, match=r"must be a PIL image or an array .* got float64 \(4, 4, 3\)"):
        list(draw(lambda captions, seeds: [np.zeros((4, 4, 3))] * 2, asked, 2))


def test_a_generator_draws_the_same_for_a_seed_whatever_its_batch() -> None:
    def generator(captions: list[str], noise: Tensor) -> Tensor:
        return noise[:, :3, None, None].expand(-1, -1, 4, 4)

    sampler = generator_sampler(generator, width=5)
    together = sampler(["a", "b"], [3, 4])
    (alone,) = sampler(["b"], [4])
    assert isinstance(alone, np.ndarray)
    assert alone.dtype == np.uint8
    np.testing.assert_array_equal(together[1], alone)
    assert_differs(together[0], together[1])


def test_a_pipeline_is_given_what_it_needs() -> None:
    class Pipe:
        def __call__(self, prompts: list[str], **arguments: Any) -> Any:
            self.arguments = arguments
            self.images = [Image.new("RGB", (4, 4), prompt) for prompt in prompts]
            return self

    pipe = Pipe()
    drawn = pipeline_sampler(pipe, steps=3, guidance_scale=2.0, height=4)(["red", "blue"], [1, 2])
    assert len(drawn) == 2
    seeds = [generator.initial_seed() for generator in pipe.arguments.pop("generator")]
    assert (seeds, pipe.arguments) == ([1, 2], {"num_inference_steps": 3, "guidance_scale": 2.0, "height": 4})


def folder_of(tmp_path: Path, count: int) -> Path:
    rows = []
    for number in range(count):
        Image.new("RGB", (20, 12 + number), (number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": [f"picture {number}", f"number {number}"]})
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_pictures_of_a_folder_come_in_random_order_and_cut(tmp_path: Path) -> None:
    chosen = folder_pictures(folder_of(tmp_path, 9), 16, 6, layout="imagefolder", seed=1)
    assert (len(chosen), len(chosen[2:5])) == (9, 3)
    assert {pair.read().size for pair in chosen} == {(16, 16)}
    names = [pair.captions for pair in chosen]
    assert names != sorted(names)
    assert names == [pair.captions for pair in folder_pictures(tmp_path, 16, 6, seed=1)]
    for pair in chosen:
        number = int(pair.captions[0].split()[1])
        assert pair.read().getpixel((8, 8)) == (number, 0, 0)


def cub_of(folder: Path) -> Path:
    """Four pictures of two classes as CUB has them, each grey with a white box."""
    names = [f"00{group}.Class/bird_{number}" for group in (1, 2) for number in (0, 1)]
    for name in names:
        image = Image.new("RGB", (60, 40), "grey")
        image.paste("white", (30, 10, 50, 30))
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "text_c10" / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / "images" / f"{name}.png")
        (folder / "text_c10" / f"{name}.txt").write_text(f"this is {name}\na bird\n")
    lists = {
        "images": [f"{name}.png" for name in names],
        "image_class_labels": [1, 1, 2, 2],
        "bounding_boxes": ["30.0 10.0 20.0 20.0"] * 4,
        "train_test_split": [0] * 4,
    }
    for name, rows in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{number} {row}\n" for number, row in enumerate(rows, 1)))
    return folder


def coco_of(folder: Path) -> Path:
    """Three pictures as COCO has them."""
    for place in ("annotations", "val2014"):
        (folder / place).mkdir()
    for number in range(3):
        Image.new("RGB", (30, 20), "white").save(folder / "val2014" / f"{number}.jpg")
    said = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(3)],
        "annotations": [{"image_id": i % 3, "caption": f"caption {i}"} for i in range(6)],
    }
    (folder / "annotations" / "captions_val2014.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("layout", ["auto", "cub"])
def test_a_folder_as_cub(tmp_path: Path, layout: Any) -> None:
    found = list(folder_pictures(cub_of(tmp_path), 8, 4, layout=layout))
    assert sorted(pair.group for pair in found if pair.group is not None) == [1, 1, 2, 2]
    assert all(pair.captions[1] == "a bird" for pair in found)
    # the square is that around the box: its middle is white, its corners are not
    assert all(pair.read().getpixel((4, 4))[0] > 240 for pair in found)
    assert all(pair.read().getpixel((0, 0))[0] < 200 for pair in found)


@pytest.mark.parametrize("layout", ["auto", "coco"])
def test_a_folder_as_coco(tmp_path: Path, layout: Any) -> None:
    found = list(folder_pictures(coco_of(tmp_path), 8, 3, layout=layout))
    assert sorted(pair.captions for pair in found) == [(f"caption {i}", f"caption {i + 3}") for i in range(3)]
    assert {pair.read().size for pair in found} == {(8, 8)}


def test_too_few_pictures_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--count 10 needs as many pictures with captions; .* has 9"):
        folder_pictures(folder_of(tmp_path, 9), 16, 10)
    with pytest.raises(
        FileNotFoundError, match=r"--data must be 'shapes' or a folder of pictures with captions; .* is not there"
    ):
        folder_pictures(tmp_path / "gone", 16, 2)


def test_where_no_caption_is_wrong_nothing_is_retrieved(pictures: list[Pair]) -> None:
    asked = requests(pictures, Plan(count=4, groups=0))
    observed = observe([pair.read() for pair in pictures[:4]], asked, judge_extractor(), with_reader=False)
    found = measure(observed, observed.features, judge_extractor(), measures=("retrieval",), meanings=[7] * 4)
    assert "none is wrong" in found["retrieval"]["absent"]


def test_pictures_of_one_class_are_no_wrong_answers(pictures: list[Pair], perfect: Any) -> None:
    birds = [
        Pair(pair.read(), (f"bird {number}",), str(number), group=number // 12) for number, pair in enumerate(pictures)
    ]
    lookup = {pair.captions[0]: pair.read() for pair in birds}
    found = evaluate_sampler(
        lambda captions, seeds: [lookup[caption] for caption in captions],
        birds,
        judge_extractor(),
        QUICK,
        measures=("retrieval", "captions"),
    )["measures"]
    # of 24 pictures in two classes, twelve are of the other
    assert found["retrieval"]["candidates"] == 13
    assert "not of the shapes world" in found["captions"]["absent"]
