"""Pairs encoded into a folder: the same as in memory, resumable, and refused where they are of something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_joint as joint
import tiny_pipelines as tiny
import torch
from accelerate import Accelerator
from PIL import Image

from weft import shapes
from weft.attach import Host, resolve
from weft.testing import assert_differs
from weft.train import LoopConfig, SoftTokensConfig, encode_pairs, fit_soft_tokens
from weft.train.encoded.batches import PairBatches, encode
from weft.train.encoded.pairs import open_encoded
from weft.train.pictures.pairs import Pair, read_pairs

COUNT = 11
SHARD = 34_000  # bytes: four pictures of 64 pixels in a file
FILES = ["latents-00000.safetensors", "latents-00001.safetensors", "latents-00002.safetensors"]
CONFIG = SoftTokensConfig(
    loop=LoopConfig(steps=3, learning_rate=1e-2, batch_size=3), objective="contrast", time_buckets=10, precision="no"
)


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = shapes.pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pairs() -> list[dict[str, Any]]:
    """Pictures that differ, with one caption or two, some with negatives."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(COUNT):
        pixels = torch.randint(256, (64, 70, 3), generator=generator, dtype=torch.uint8)
        captions = ["a red circle", f"{number} blue squares"][: 1 + number % 2]
        rows.append(
            {"image": Image.fromarray(pixels.numpy()), "text": captions, "negatives": ["a cube"] * (number % 3)}
        )
    return rows


@pytest.fixture
def encoded(pipe: Any, pairs: list[dict[str, Any]], tmp_path: Path) -> Path:
    return encode_pairs(pipe, pairs, tmp_path / "encoded", shard_size=SHARD)


def build(kind: str, folder: Path) -> Any:
    return joint.pipeline(folder) if kind == "sd3" else tiny.build(kind, folder)


def batches(pipe: Any, pairs: Any, folder: Path | None, accelerator: Accelerator) -> PairBatches:
    found = read_pairs(pairs, who="test")
    made = encode(resolve(pipe), found, 64, folder, accelerator=accelerator, base_name="test", who="test")
    return PairBatches(resolve(pipe), found, *made, range(len(found)), 4, 1000)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def counting_reads(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[str]:
    """Names of the pictures that are read from now on; the process is cut off at one of them."""
    names: list[str] = []
    read = Pair.read

    def noted(pair: Pair) -> Image.Image:
        if len(names) == stop_at:
            raise KeyboardInterrupt
        names.append(pair.name)
        return read(pair)

    monkeypatch.setattr(Pair, "read", noted)
    return names


def test_batches_are_those_of_memory_bit_for_bit(
    pipe: Any, pairs: Any, encoded: Path, accelerator: Accelerator
) -> None:
    assert sorted(content(encoded)) == ["index.json", *FILES]
    stored, held = (batches(pipe, pairs, folder, accelerator) for folder in (encoded, None))
    for samples in range(0, 40, 4):  # several epochs
        assert all(map(torch.equal, stored(samples), held(samples)))
    some = [1, 2, 5, 6, 10]
    for samples in range(0, 12, 4):
        assert all(map(torch.equal, stored.part(some)(samples), held.part(some)(samples)))


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "sd3"])
def test_training_is_the_same(kind: str, pairs: Any, tmp_path: Path) -> None:
    pipe, config = build(kind, tmp_path / "model"), replace(CONFIG, held_out=0.3, measure_every=1)
    pairs = [{**row, "text": row["text"][0]} for row in pairs]
    pairs[0]["text"] = "a blue square"
    expected = fit_soft_tokens(pipe, pairs, config=config)
    for _ in range(2):  # once it encodes, once it reads
        found = fit_soft_tokens(pipe, pairs, config=config, encoded=tmp_path / "encoded")
        assert torch.equal(found.tokens, expected.tokens)


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "sd3"])
@pytest.mark.parametrize(("text", "atol"), [(True, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
def test_text_is_what_the_encoder_gives(
    kind: str,
    text: Any,
    atol: float,
    pairs: Any,
    tmp_path: Path,
    accelerator: Accelerator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe = build(kind, tmp_path / "model")
    for row in pairs:
        row["text"] = [caption.replace("squares", "ball") for caption in row["text"]]
    folder = encode_pairs(pipe, pairs, tmp_path / "encoded", resolution=64, text=text, shard_size=20_000)
    assert len(list(folder.glob("text-*"))) > 1
    held, stored = (batches(pipe, pairs, each, accelerator) for each in (None, folder))
    expected = held(4)
    # nothing is left for the encoder to do
    monkeypatch.setattr(Host, "encode_captions", None)
    found = stored(4)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, atol=atol, rtol=0)


def test_negatives_have_their_text_beside_captions(
    pipe: Any, pairs: Any, tmp_path: Path, accelerator: Accelerator
) -> None:
    folder = encode_pairs(pipe, pairs, tmp_path / "encoded", text=True)
    found = read_pairs(pairs, who="test")
    _, text = open_encoded(resolve(pipe), found, folder, 64, accelerator=accelerator, base_name="test", who="test")
    assert text is not None and found[5].texts == ("a red circle", "5 blue squares", "a cube", "a cube")
    states = text.part([(5, 2), (5, 0), (0, 0), (2, 1)]).states
    assert torch.equal(states[0], states[3])
    assert_differs(states[0], states[1])
    torch.testing.assert_close(states[1], states[2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("read", [1, 2, 5, 9, 10])
def test_a_run_that_was_cut_off_goes_on_at_the_next_file(
    read: int, pipe: Any, pairs: Any, encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cut"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        counting_reads(patch, stop_at=read)
        encode_pairs(pipe, pairs, folder, shard_size=SHARD)
    done = (read - 1) // 4  # the first picture is read once more, to see what a row is
    assert sorted(content(folder)) == ["index.json", *FILES[:done]]
    times = {name: (folder / name).stat().st_mtime_ns for name in FILES[:done]}
    names = counting_reads(monkeypatch)
    encode_pairs(pipe, pairs, folder)
    assert len(names) == 1 + COUNT - 4 * done
    assert {name: (folder / name).stat().st_mtime_ns for name in times} == times
    assert content(folder) == content(encoded)


def test_a_complete_folder_is_only_read(pipe: Any, pairs: Any, encoded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be on a disk that cannot be written to."""
    monkeypatch.setattr(Path, "write_bytes", None)
    monkeypatch.setattr(Path, "write_text", None)
    encode_pairs(pipe, pairs, encoded)


def test_text_can_be_added(pipe: Any, pairs: Any, encoded: Path, tmp_path: Path) -> None:
    at_once = encode_pairs(pipe, pairs, tmp_path / "at once", shard_size=SHARD, text=True)
    encode_pairs(pipe, pairs, encoded, shard_size=SHARD, text=True)
    assert content(encoded) == content(at_once)
    # and is left alone by those who do not ask for it
    pairs[0]["text"] = "something else"
    encode_pairs(pipe, pairs, encoded)
    with pytest.raises(ValueError, match=r"text-00000\.safetensors holds text of something else than what rows 0 to"):
        encode_pairs(pipe, pairs, encoded, text=True)


def test_leftovers_of_a_killed_process_go(pipe: Any, pairs: Any, encoded: Path) -> None:
    (encoded / ".latents-00001-abcdefgh.safetensors").write_bytes(b"half")
    (encoded / FILES[1]).unlink()
    encode_pairs(pipe, pairs, encoded)
    assert sorted(content(encoded)) == ["index.json", *FILES]


def other_pairs(pipe: Any, pairs: Any, folder: Path) -> None:
    encode_pairs(pipe, pairs[1:], folder)


def other_picture(pipe: Any, pairs: Any, folder: Path) -> None:
    encode_pairs(pipe, [*pairs[:-1], {**pairs[-1], "image": Image.new("RGB", (64, 64))}], folder)


def other_resolution(pipe: Any, pairs: Any, folder: Path) -> None:
    encode_pairs(pipe, pairs, folder, resolution=128)


def other_model(pipe: Any, pairs: Any, folder: Path) -> None:
    other = shapes.pipeline()
    with torch.no_grad():
        for value in other.vae.parameters():
            value.add_(1e-3)
    encode_pairs(other, pairs, folder)


def other_dtype(pipe: Any, pairs: Any, folder: Path) -> None:
    encode_pairs(shapes.pipeline().to(torch.bfloat16), pairs, folder)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (other_pairs, "than what rows 0 to 3 are made from now; choose another folder, or delete it and run again"),
        (other_picture, "than what rows 8 to 10 are made from now; choose another folder"),
        (other_resolution, ": `resolution` was 64, is 128"),
        (other_model, r": `autoencoder` was '\w+', is '\w+'; choose another folder, or the old settings"),
        (other_dtype, ".*`autoencoder_dtype` was 'float32', is 'bfloat16'"),
    ],
)
def test_a_folder_of_something_else(
    run: Callable[[Any, Any, Path], None], message: str, pipe: Any, pairs: Any, encoded: Path
) -> None:
    before = content(encoded)
    with pytest.raises(ValueError, match=f"holds latents of something else ?{message}"):
        run(pipe, pairs, encoded)
    assert content(encoded) == before


def test_a_damaged_picture_can_be_taken_out_or_repaired(
    pipe: Any, pairs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its head says nothing of it, so it is found on the way; what was made before it is kept."""
    path = tmp_path / "damaged.png"
    pairs[9]["image"].save(path)
    path.write_bytes(path.read_bytes()[:-3000])
    given = [*pairs[:9], {**pairs[9], "image": path}, pairs[10]]
    folder = tmp_path / "encoded"
    with pytest.raises(ValueError, match=r"damaged\.png cannot be read as a picture"):
        encode_pairs(pipe, given, folder, shard_size=SHARD)
    assert sorted(content(folder)) == ["index.json", *FILES[:2]]
    names = counting_reads(monkeypatch)
    encode_pairs(pipe, [*given[:9], given[10]], folder)
    assert len(names) == 1 + 2
    (folder / FILES[2]).unlink()
    pairs[9]["image"].save(path)
    encode_pairs(pipe, given, folder)
    assert len(names) == 3 + 1 + 3


def test_a_file_is_no_folder(pipe: Any, pairs: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"need a folder; .*file is a file"):
        encode_pairs(pipe, pairs, tmp_path / "file")


def test_an_index_that_was_lost(pipe: Any, pairs: Any, encoded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, index = content(encoded), encoded / "index.json"
    index.write_text(index.read_text()[:300])
    with pytest.raises(
        ValueError, match=r"index\.json is damaged \(JSONDecodeError: .*delete it and run again, which"
    ):
        encode_pairs(pipe, pairs, encoded)
    index.unlink()
    names = counting_reads(monkeypatch)
    encode_pairs(pipe, pairs, encoded, shard_size=SHARD)
    assert content(encoded) == before and len(names) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "must be of format 1; it is of 2"),
        ({"latents": {}}, "is damaged .KeyError: 'tensors'"),
        ({"latents": 3}, "is damaged .TypeError"),
        ({"rows": 0}, "counts must be whole numbers above 0"),
        ({"rows_per_shard": True}, "counts must be whole numbers above 0"),
        ({"tensors": {}}, "tensors must be of float64, float32"),
        ({"tensors": {"mean": {"dtype": "int8", "shape": [1]}}}, "tensors must be of float64, float32"),
        ({"tensors": {"mean": {"dtype": "float32", "shape": [4, 16]}}}, "`tensors` was"),
    ],
)
def test_an_index_with_other_numbers(
    change: dict[str, Any], message: str, pipe: Any, pairs: Any, encoded: Path
) -> None:
    saved = json.loads((encoded / "index.json").read_text())
    at = saved if change.keys() <= saved.keys() else saved["latents"]
    at.update(change)
    (encoded / "index.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=message):
        encode_pairs(pipe, pairs, encoded)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"resolution": 20}, ValueError, "`resolution` must be a multiple of 8 pixels; got 20"),
        ({"resolution": 0}, ValueError, "`resolution` must be a multiple of 8 pixels; got 0"),
        ({"shard_size": 0}, ValueError, "`shard_size` must be at least 1 byte; got 0"),
        ({"text": "yes"}, TypeError, "`text` must be True, False, or torch.float16, .* got 'yes'"),
        ({"text": torch.int8}, TypeError, "`text` must be True, False"),
    ],
)
def test_options(changes: Any, error: type[Exception], message: str, pipe: Any, pairs: Any, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        encode_pairs(pipe, pairs, tmp_path / "encoded", **changes)
    assert not (tmp_path / "encoded").exists()


def test_a_model_that_overflows(pairs: Any, tmp_path: Path) -> None:
    pipe = tiny.sd1(tmp_path / "model")
    with torch.no_grad():
        pipe.vae.quant_conv.bias.fill_(torch.nan)
    with pytest.raises(
        ValueError, match="`mean` must be finite; among rows 0 to 10 of latents it is not; encode with"
    ):
        encode_pairs(pipe, pairs, tmp_path / "encoded")
    assert sorted(content(tmp_path / "encoded")) == ["index.json"]


def test_pairs_that_cannot_be_used_are_passed_over(pipe: Any, pairs: Any, tmp_path: Path) -> None:
    given = [*pairs, {"image": tmp_path / "gone.png", "text": "a cube"}]
    with pytest.warns(UserWarning, match=r"encode_pairs: 1 of 12 pairs are passed over, the first is gone\.png"):
        encode_pairs(pipe, given, tmp_path / "encoded", most_missing=0.1)
    with pytest.raises(ValueError, match="at most 1% may be"):
        encode_pairs(pipe, given, tmp_path / "encoded")
