"""Rows of tensors in safetensors files of bounded size, read where they are needed from files mapped into memory."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# the names that safetensors has for what may be stored
CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
CHECKSUMS = "crc32"  # one of every row: a file can keep its size and lose its content when a machine goes down
STAMP = "weft.encoded"


@dataclass(frozen=True)
class RowTensor:
    """One tensor of a row: its dtype, by torch's name, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * getattr(torch, self.dtype).itemsize


@dataclass(frozen=True)
class Shard:
    """One file.

    Attributes:
        number: Among its like.
        rows: That it holds.
        stamp: Of what they are made from; it is written in the file.
    """

    number: int
    path: Path
    rows: range
    stamp: str


@dataclass(frozen=True)
class Layout:
    """Which rows lie in which file.

    Attributes:
        name: Of the files, before their number.
        identity: Names and values of what all rows depend on.
        rows: In all files together.
        rows_per_shard: In every file but the last.
        tensors: What a row consists of.
    """

    name: str
    identity: Mapping[str, Any]
    rows: int
    rows_per_shard: int
    tensors: Mapping[str, RowTensor]

    @property
    def row_bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors.values()) + 8

    def shards(self, folder: Path, source: Callable[[range], str]) -> list[Shard]:
        """The files.

        Args:
            source: A name for what some rows are made from. A file is as good as before when other rows change.
        """
        found = []
        for number, start in enumerate(range(0, self.rows, self.rows_per_shard)):
            rows = range(start, min(start + self.rows_per_shard, self.rows))
            source_json = json.dumps([self.identity, source(rows)], sort_keys=True)
            stamp = hashlib.sha256(source_json.encode()).hexdigest()[:16]
            found.append(Shard(number, folder / f"{self.name}-{number:05d}.safetensors", rows, stamp))
        return found

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "name"}

    @classmethod
    def from_json(cls, name: str, saved: Any) -> Layout:
        """What ``as_json`` gave.

        Raises:
            ValueError, TypeError, KeyError: Anything else.
        """
        tensors = {
            key: RowTensor(tensor["dtype"], tuple(tensor["shape"])) for key, tensor in dict(saved["tensors"]).items()
        }
        counts = [
            saved["rows"],
            saved["rows_per_shard"],
            *(size for tensor in tensors.values() for size in tensor.shape),
        ]
        if not all(type(count) is int and count > 0 for count in counts):
            raise ValueError(f"counts must be whole numbers above 0; got {counts}")
        if not tensors or any(tensor.dtype not in CODES for tensor in tensors.values()):
            raise ValueError(f"tensors must be of {', '.join(CODES)}; got {tensors}")
        return cls(name, dict(saved["identity"]), saved["rows"], saved["rows_per_shard"], tensors)


class Shards:
    """The rows of a layout. Nothing is read before it is asked for but the heads of the files.

    Args:
        shards: Every file of ``layout``.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or holds something else.
    """

    def __init__(self, layout: Layout, shards: Sequence[Shard]) -> None:
        self.layout = layout
        self._shards = shards
        self._opened = [open_shard(shard, layout) for shard in shards]

    def part(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Some rows, each tensor [len(rows), ...].

        Raises:
            ValueError: One of them is damaged.
        """
        found = [self._row(row) for row in rows]
        return {name: torch.stack([row[name] for row in found]) for name in self.layout.tensors}

    def _row(self, row: int) -> dict[str, Tensor]:
        number, place = divmod(row, self.layout.rows_per_shard)
        opened = self._opened[number]
        found = {name: opened.get_slice(name)[place] for name in self.layout.tensors}
        if checksum(found) != int(opened.get_slice(CHECKSUMS)[place]):
            raise _unusable(self._shards[number].path, f"it is damaged, the checksum of row {place} is wrong")
        return found


def open_shard(shard: Shard, layout: Layout) -> Any:
    """The file, mapped into memory.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, or holds something else.
    """
    try:
        opened: Any = safe_open(shard.path, "pt")
        stamp = (opened.metadata() or {}).get(STAMP)
        found = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
        heads = {name: (part.get_dtype(), part.get_shape()) for name, part in found.items()}
    except SafetensorError as error:
        raise _unusable(shard.path, f"it is damaged ({error})") from error
    if stamp != shard.stamp:
        raise ValueError(
            f"{shard.path} holds {layout.name} of something else than what rows {shard.rows.start} to "
            f"{shard.rows.stop - 1} are made from now; choose another folder, or delete it and run again"
        )
    count = len(shard.rows)
    expected = {name: (CODES[part.dtype], [count, *part.shape]) for name, part in layout.tensors.items()}
    expected[CHECKSUMS] = ("I64", [count])
    if heads != expected:
        raise _unusable(shard.path, f"it must hold {expected}; it holds {heads}")
    return opened


def checksum(row: Mapping[str, Tensor]) -> int:
    """32 bits of what a row holds; its tensors are on the CPU."""
    total = 0
    for name in sorted(row):
        total = zlib.crc32(row[name].contiguous().view(torch.uint8).numpy().data, total)
    return total


def _unusable(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} cannot be used: {reason}; delete it and run again, which writes this file again")
