"""Pictures with captions from folders and sequences, and batches of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from weft.shapes import CaptionedScenes
from weft.testing import assert_differs
from weft.train.gan.batches import GanBatch, GanBatches
from weft.train.gan.drawn import Text
from weft.train.gan.pictures import Pictures, read_pictures
from weft.train.gan.text import Recurrent, Vocabulary, words_of
from weft.train.pictures.pairs import Pair


def read(data: Any, size: int = 64, *, crop: bool = False, flip: bool = False, split: str = "train") -> Pictures:
    return read_pictures(data, size, crop=crop, flip=flip, split=split)


def picture(folder: Path, name: str, size: tuple[int, int] = (80, 70), colour: int = 90) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 20, 30)).save(folder / name)


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    """Four birds of two classes, the last for testing."""
    names = ["001.Auk/a_1.jpg", "001.Auk/a_2.jpg", "002.Wren/w_1.jpg", "002.Wren/w_2.jpg"]
    for number, name in enumerate(names, 1):
        picture(tmp_path / "images", name, colour=40 * number)
        text = tmp_path / "text_c10" / Path(name).with_suffix(".txt")
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f"bird {number} is black\nthe bird is number {number}\n\n")
    lines = {
        "images": [f"{number} {name}" for number, name in enumerate(names, 1)],
        "image_class_labels": ["1 1", "2 1", "3 2", "4 2"],
        "bounding_boxes": ["1 10.0 20.0 30.0 20.0", *(f"{number} 0 0 80 70" for number in (2, 3, 4))],
        "train_test_split": ["1 1", "2 1", "3 1", "4 0"],
    }
    for name, rows in lines.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_cub(cub: Path) -> None:
    found = read(cub)
    assert [pair.name for pair in found.pairs] == ["001.Auk/a_1.jpg", "001.Auk/a_2.jpg", "002.Wren/w_1.jpg"]
    assert [found[place].group for place in range(3)] == [1, 1, 2]
    assert found[0].captions == ("bird 1 is black", "the bird is number 1")
    assert found.pairs[0].box == (10.0, 20.0, 30.0, 20.0)
    assert found[0].pixels.shape == (64, 64, 3)
    (cub / "trainvalclasses.txt").write_text("002.Wren\n")
    assert [pair.name for pair in read(cub).pairs] == ["002.Wren/w_1.jpg", "002.Wren/w_2.jpg"]
    with pytest.raises(ValueError, match=r"needs at least two pictures with captions; test of .* has 1"):
        read(cub, split="test")
    with pytest.raises(ValueError, match=r"`split` of .* must be train or test; got 'val'"):
        read(cub, split="val")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("image_class_labels.txt", None, "as CUB has it needs image_class_labels.txt; there is none"),
        ("bounding_boxes.txt", "1 2 3\n", "must be a number and 4 more; got '1 2 3'"),
        ("bounding_boxes.txt", "1 2 3 4 wide\n", "must be a number and 4 more; got '1 2 3 4 wide'"),
        ("image_class_labels.txt", "1 Auk\n", "must be a number and 1 more; got '1 Auk'"),
        ("images.txt", "one 001.Auk/a_1.jpg\n", "must be a number and 1 more; got 'one 001.Auk/a_1.jpg'"),
        ("images.txt", "1 ../../a_1.jpg\n", r"names a file outside the folder: '../../a_1.jpg'"),
        ("text_c10/001.Auk/a_1.txt", "\n", "every picture needs captions; 001.Auk/a_1.jpg has none"),
        ("text_c10/001.Auk/a_1.txt", None, "names 001.Auk/a_1.jpg; there is no .*a_1.txt"),
        ("images/001.Auk/a_1.jpg", "no picture", "must be one; 001.Auk/a_1.jpg: cannot be read as a picture"),
        ("images/001.Auk/a_1.jpg", None, "names 001.Auk/a_1.jpg; there is no .*a_1.jpg"),
    ],
)
def test_a_damaged_cub_is_reported(cub: Path, name: str, content: str | None, message: str) -> None:
    (cub / name).unlink() if content is None else (cub / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read(cub)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    for number in (7, 8):
        picture(tmp_path / "train2014", f"{number}.jpg")
    said = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (7, 8)],
        "annotations": [
            {"image_id": number, "caption": text}
            for number, text in ((7, " A cat. "), (8, "A dog."), (7, "Some cat."))
        ],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_train2014.json").write_text(json.dumps(said))
    return tmp_path


def test_coco(coco: Path) -> None:
    found = read(coco)
    assert [found[place].captions for place in range(2)] == [("A cat.", "Some cat."), ("A dog.",)]
    assert found[0].group is None
    with pytest.raises(ValueError, match=r"`split` must say one of captions_train2014.json in .*; got 'val'"):
        read(coco, split="val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": []}, "every picture needs captions; 7.jpg has none"),
        (
            {"images": [{"id": number, "file_name": f"../{number}.jpg"} for number in (7, 8)]},
            r"names \.\./7.jpg; there is no such file",
        ),
        ({"images": 3}, "must be JSON with `images` of `id` and `file_name`.*TypeError"),
        ({"annotations": [{"image_id": 9, "caption": "A bird."}]}, "must be JSON .*KeyError: 9"),
    ],
)
def test_a_damaged_coco_is_reported(coco: Path, change: dict[str, Any], message: str) -> None:
    path = coco / "annotations" / "captions_train2014.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        read(coco)


def test_a_folder_with_metadata_has_one_caption_or_several(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path, name)
    rows = [{"file_name": "a.png", "text": ["a cat", "some cat"]}, {"file_name": "b.png", "text": "a dog"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read(tmp_path)
    assert [found[place].captions for place in range(2)] == [("a cat", "some cat"), ("a dog",)]


def test_what_is_no_captioned_picture_is_reported(tmp_path: Path) -> None:
    class Lazy(CaptionedScenes):
        def __getitem__(self, index: Any) -> Any:
            return items[index]

    items: list[Any] = [(Image.new("RGB", (64, 64)), ())]
    with pytest.raises(ValueError, match=r"every picture needs captions; picture 0 has \(\)"):
        read(Lazy(3))
    items = ["picture"]
    with pytest.raises(TypeError, match=r"must come as \(picture, captions\); number 0 is str"):
        read(Lazy(3))
    with pytest.raises(ValueError, match="at least two pictures with captions; got 1"):
        read(CaptionedScenes(1))
    with pytest.raises(FileNotFoundError, match="there is none at"):
        read(tmp_path / "nowhere")


def batches(pictures: Pictures, size: int = 4, process: int = 0) -> GanBatches:
    return GanBatches(pictures, Vocabulary.of(pictures.captions(), 20), size, 3, seed=5, process=process)


def test_a_batch_is_a_function_of_the_samples_seen_and_processes_share_it() -> None:
    pictures = read(CaptionedScenes(10))
    whole = batches(pictures)(8)
    halves = [batches(pictures, 2, process)(8) for process in range(2)]
    for name in GanBatch._fields[:-1]:
        assert torch.equal(getattr(whole, name), torch.cat([getattr(half, name) for half in halves])), name
    assert whole.images.shape == (4, 3, 64, 64) and whole.images.abs().max() <= 1
    assert whole.numbers.shape[:2] == (4, 2) and whole.noise.shape == (4, 2, 3)
    seen = torch.cat([batches(pictures, 5)(samples).pictures for samples in (0, 5)])
    assert sorted(seen.tolist()) == list(range(10))


def test_captions_of_a_batch_are_those_of_its_pictures() -> None:
    scenes = CaptionedScenes(10)
    batch, vocabulary = batches(read(scenes))(0), Vocabulary.of(read(scenes).captions(), 20)
    captions = {
        tuple(vocabulary([text])[0].tolist()): text for place in range(10) for text in scenes.captions_of(place)
    }
    for row in range(4):
        own = scenes.captions_of(int(batch.pictures[row]))
        assert all(captions[tuple(numbers.tolist())] in own for numbers in batch.numbers[row])
        expected = torch.from_numpy(np.array(scenes[int(batch.pictures[row])][0])).permute(2, 0, 1) / 127.5 - 1
        torch.testing.assert_close(batch.images[row], expected)


def test_what_captions_have_in_common_is_a_class_or_their_words() -> None:
    ids = torch.tensor([[3, 4], [3, 9], [5, 4]])
    batch = GanBatch(*(torch.empty(0) for _ in range(4)), ids, torch.tensor([-1, -1, 7]), torch.empty(0))
    assert batch.alike.tolist() == [[3, 4], [3, 9], [7, 7]]


@pytest.mark.parametrize(
    ("captions", "count", "message"),
    [
        ((), 2, "every picture needs captions; second has none"),
        ((" ",), 2, r"every picture needs captions; second has \(' ',\)"),
        (("a ball",), 1, "needs at least two pictures with captions; got 1"),
    ],
)
def test_pairs_are_looked_at(captions: tuple[str, ...], count: int, message: str) -> None:
    image = Image.new("RGB", (8, 8))
    given = [Pair(image, ("a box",), "first", group=1), Pair(image, captions, "second", group=2)]
    with pytest.raises(ValueError, match=message):
        read(given[:count])


def test_a_crop_is_another_each_time_and_a_flip_mirrors() -> None:
    image = Image.fromarray(np.arange(90 * 90, dtype=np.uint8).reshape(90, 90)[..., None].repeat(3, 2))
    data = [(image, "a ramp"), (image, "another")]
    stream = torch.Generator().manual_seed(0)
    cropped = read(data, crop=True)
    assert cropped[0].pixels.shape == (76, 76, 3)
    views = [cropped.view(cropped[0], stream) for _ in range(3)]
    assert views[0].shape == (3, 64, 64)
    assert_differs(views[0], views[1])
    flipped = read(data, flip=True)
    straight = read(data).view(read(data)[0], stream)
    kinds = [torch.equal(flipped.view(flipped[0], stream), straight) for _ in range(16)]
    assert any(kinds) and not all(kinds)
    mirrored = next(
        view for view in (flipped.view(flipped[0], stream) for _ in range(16)) if not torch.equal(view, straight)
    )
    assert torch.equal(mirrored.flip(-1), straight)


def test_words_and_their_numbers() -> None:
    assert words_of("A red-circle, and 2 stars!") == ["a", "red", "circle", "and", "2", "stars"]
    vocabulary = Vocabulary.of(["a red circle", "a blue square and a ring"], 18)
    assert (vocabulary.length, len(vocabulary)) == (6, 7 + 2)
    rows = vocabulary(["a zebra", "", "ring ring ring ring ring ring ring"])
    assert rows[0, 1:].tolist() == [1, 0, 0, 0, 0] and rows[1].tolist() == [1, 0, 0, 0, 0, 0]
    assert (rows[2] == rows[2, 0]).all()
    assert Vocabulary.of(["a b c d"], 2).length == 2


def test_a_caption_is_encoded_the_same_whatever_is_beside_it() -> None:
    vocabulary = Vocabulary.of(["a red circle", "a blue square and a ring"], 18)
    encoder = Recurrent(vocabulary, width=6, embedding=4, dropout=0.5).eval()
    numbers = encoder.numbers(["a red circle", "a blue square and a ring"])
    both: Text = encoder(numbers)
    alone: Text = encoder(numbers[:1])
    assert both.padding[0].tolist() == [False] * 3 + [True] * 3
    torch.testing.assert_close(
        (both.sentence[:1], both.words[:1]), (alone.sentence, alone.words), atol=1e-6, rtol=1e-5
    )
    # the last state of one direction is its output at the last word, of the other at the first
    torch.testing.assert_close(both.sentence[0], torch.cat([both.words[0, 2, :3], both.words[0, 0, 3:]]))
    assert not both.words[0, 3:].any()
