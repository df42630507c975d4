"""Shards: written whole or not at all, on a disk that fills up too; read lazily; damage is reported by name."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.train.encoded.shard_writing import Job, check_free_space, write_missing
from weft.train.encoded.shards import Layout, RowTensor, Shard, Shards

TENSORS = {"a": RowTensor("float32", (2, 3)), "b": RowTensor("bfloat16", (5,))}
LAYOUT = Layout("rows", {"of": "this", "size": 3}, 10, 4, TENSORS)
FILES = ["rows-00000.safetensors", "rows-00001.safetensors", "rows-00002.safetensors"]


def row(number: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {"a": torch.randn(2, 3, generator=generator), "b": torch.randn(5, generator=generator).bfloat16()}


def make(rows: range) -> Iterator[dict[str, Tensor]]:
    """Three at a time."""
    for first in range(0, len(rows), 3):
        some = [row(number) for number in rows[first : first + 3]]
        yield {name: torch.stack([each[name] for each in some]) for name in TENSORS}


def shards_of(folder: Path, layout: Layout = LAYOUT, version: int = 1) -> list[Shard]:
    """Rows from the sixth on are made from another version."""
    return layout.shards(folder, lambda rows: f"{rows.start} of version {version if rows.stop > 5 else 1}")


def opened(folder: Path, layout: Layout = LAYOUT) -> Shards:
    return Shards(layout, shards_of(folder, layout))


def write(folder: Path, layout: Layout = LAYOUT, version: int = 1) -> list[str]:
    """Names of the files that were written."""
    job = Job(layout, shards_of(folder, layout, version), make)
    missing = [shard.path.name for shard in job.missing()]
    check_free_space(folder, [job], who="test")
    write_missing(folder, [job], accelerator=None, who="test")
    return missing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    assert write(tmp_path) == names(tmp_path) == FILES
    assert write(tmp_path) == []
    found = opened(tmp_path).part([9, 0, 3, 4, 0])
    for number, place in enumerate([9, 0, 3, 4, 0]):
        assert all(torch.equal(found[name][number], value) for name, value in row(place).items())
    assert [len(load_file(tmp_path / name)["a"]) for name in FILES] == [4, 4, 2]


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8])
def test_the_last_file_holds_what_is_left(rows: int, tmp_path: Path) -> None:
    layout = Layout("rows", {}, rows, 4, TENSORS)
    write(tmp_path, layout)
    assert len(opened(tmp_path, layout).part(range(rows))["b"]) == rows


@pytest.mark.parametrize("refused", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("fits", [0, 1, 2])
def test_a_full_disk(fits: int, refused: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that does not fit is half written; what was there stays, and running again goes on."""
    write_bytes, written = Path.write_bytes, []

    def filling(path: Path, data: bytes) -> int:
        if len(written) == fits:
            write_bytes(path, data[: len(data) // 2])
            raise OSError(refused, "No space left on device")
        written.append(path)
        return write_bytes(path, data)

    left = (10 - 4 * fits) * LAYOUT.row_bytes / 1e6
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", filling)
        with pytest.raises(OSError, match=f"is full: {left:.3g} MB are still to be written, and .* run again"):
            write(tmp_path)
    assert names(tmp_path) == FILES[:fits]
    assert write(tmp_path) == FILES[fits:]
    assert torch.equal(opened(tmp_path).part([5])["a"][0], row(5)["a"])


def test_another_error_is_reported_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, data: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(OSError, match="Input/output error"):
        write(tmp_path)
    assert names(tmp_path) == []


def test_what_cannot_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    (tmp_path / FILES[1]).unlink()
    needed = 4 * LAYOUT.row_bytes

    def free(size: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, size))

    free(needed - 1)
    with pytest.raises(OSError, match=r"test: .* MB are needed in .* MB are free there; free space, run"):
        write(tmp_path)
    assert names(tmp_path) == [FILES[0], FILES[2]]
    free(needed)
    assert write(tmp_path) == [FILES[1]]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def garbled(path: Path) -> None:
    path.write_bytes(b"\xff" * 16 + path.read_bytes()[16:])


def rewritten(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    held = {name: part.clone() for name, part in load_file(path).items()}
    save_file(change(held), path, {"weft.encoded": shards_of(path.parent)[1].stamp})


def without_a_tensor(path: Path) -> None:
    rewritten(path, lambda held: {name: part for name, part in held.items() if name != "b"})


def with_another_dtype(path: Path) -> None:
    rewritten(path, lambda held: {**held, "b": held["b"].float()})


def with_fewer_rows(path: Path) -> None:
    rewritten(path, lambda held: {name: part[:3].clone() for name, part in held.items()})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "it is damaged .*not fully covered"),
        (emptied, "it is damaged .*header too small"),
        (garbled, "it is damaged"),
        (without_a_tensor, r"it must hold .*'b': \('BF16', \[4, 5\]\).*; it holds"),
        (with_another_dtype, r"it must hold .*; it holds .*'b': \('F32', \[4, 5\]\)"),
        (with_fewer_rows, r"it must hold .*; it holds .*'a': \('F32', \[3, 2, 3\]\)"),
    ],
)
def test_a_damaged_file_is_named_and_written_again_alone(damage: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path)
    damage(tmp_path / FILES[1])
    for use in (write, opened):
        with pytest.raises(ValueError, match=rf"{FILES[1]} cannot be used: {message}.*delete it and run again"):
            use(tmp_path)
    (tmp_path / FILES[1]).unlink()
    assert write(tmp_path) == [FILES[1]]
    assert torch.equal(opened(tmp_path).part([6])["b"][0], row(6)["b"])


def test_rows_that_are_made_from_something_else(tmp_path: Path) -> None:
    """Files of other rows are as good as before."""
    write(tmp_path)
    message = (
        rf"{FILES[1]} holds rows of something else than what rows 4 to 7 are made from now; choose another folder"
    )
    with pytest.raises(ValueError, match=message):
        write(tmp_path, version=2)
    for name in FILES[1:]:
        (tmp_path / name).unlink()
    assert write(tmp_path, version=2) == FILES[1:]
    with pytest.raises(ValueError, match=rf"{FILES[0]} holds rows of something else"):
        opened(tmp_path, replace(LAYOUT, identity={"of": "that"}))


def test_more_rows(tmp_path: Path) -> None:
    write(tmp_path, replace(LAYOUT, rows=8))
    assert write(tmp_path) == FILES[2:]
    assert torch.equal(opened(tmp_path).part([9])["b"][0], row(9)["b"])


def test_content_that_was_lost_is_found_when_it_is_read(tmp_path: Path) -> None:
    """A file may keep its size and head; and rows that are not asked for are not read."""
    write(tmp_path)
    path = tmp_path / FILES[1]
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    shards = opened(tmp_path)
    shards.part([0, 3, 4, 5, 6, 8, 9])
    with pytest.raises(ValueError, match=f"{FILES[1]} cannot be used: it is damaged, the checksum of row 3 is wrong"):
        shards.part([0, 7])


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / FILES[2]).unlink()
    with pytest.raises(FileNotFoundError):
        opened(tmp_path)


def test_what_is_read_is_little(tmp_path: Path) -> None:
    """Eight rows of a file of 80 MB."""
    import resource

    layout = Layout("large", {}, 2500, 2500, {"a": RowTensor("float32", (4, 64, 32))})
    job = Job(layout, shards_of(tmp_path, layout), lambda rows: iter([{"a": torch.ones(len(rows), 4, 64, 32)}]))
    write_missing(tmp_path, [job], accelerator=None, who="test")

    def pages() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    before = pages()
    found = opened(tmp_path, layout).part(range(0, 2500, 320))
    assert found["a"].untyped_storage().nbytes() == 8 * 4 * 64 * 32 * 4
    assert (pages() - before) * 4096 < 40e6
