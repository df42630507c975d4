"""Safetensors files of what was trained: tensors, and a record of what they are in the metadata under "weft"."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from weft._files import whole_file

KEY = "weft"


@dataclass(frozen=True)
class Artefact:
    """A kind of file.

    Attributes:
        name: The class that reads and writes it, as messages call it.
        kind: How its record calls it.
        what: How a sentence calls it: "a residual".
        instead: What to do with a file that has no record, for the message.
        format: Of the record; a reader refuses what is newer.
    """

    name: str
    kind: str
    what: str
    instead: str
    format: int = 1

    def write(
        self,
        path: Path,
        tensors: Mapping[str, Tensor],
        record: Mapping[str, Any] | None,
        metadata: Mapping[str, str],
        dtype: torch.dtype | None,
    ) -> None:
        """Write ``tensors`` as ``dtype``, or as they are, with the record and ``metadata``; whole or not at all."""
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"{self.name}: cannot write {path}: the folder {path.parent} is not there; make it first"
            )
        texts = {"format": "pt", **metadata}
        if record is not None:
            about = {"kind": self.kind, "format": self.format, "version": importlib.metadata.version("weft"), **record}
            texts[KEY] = json.dumps(about, sort_keys=True)
        stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
        # the format refuses tensors that share memory, as parts and transposes of one do
        memory = Counter(tensor.untyped_storage().data_ptr() for tensor in stored.values())
        for name, tensor in stored.items():
            if memory[tensor.untyped_storage().data_ptr()] > 1:
                stored[name] = tensor.clone()
        with whole_file(path) as temporary:
            save_file(stored, temporary, metadata=texts)

    def read(
        self, path: Path, fields: tuple[str, ...], later: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors in fp32, and the record.

        Args:
            path: The file.
            fields: What every record has.
            later: What older records lack, with what they meant by it.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is cut short, damaged, not of weft, of another kind or of a newer format.
        """
        tensors, metadata = self.read_tensors(path)
        return tensors, self.record(path, metadata, fields, later)

    def record(
        self, path: Path, metadata: Mapping[str, str], fields: tuple[str, ...], later: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The record in the ``metadata`` of a file.

        Raises:
            ValueError: As ``read``.
        """
        if KEY not in metadata:
            raise ValueError(f"{self.name}: {path} is not {self.what} of weft; {self.instead}")
        try:
            record: dict[str, Any] = json.loads(metadata[KEY])
            kind, version = record["kind"], record["format"]
            if kind == self.kind and version <= self.format:
                known = {name: record.get(name, value) for name, value in (later or {}).items()}
                return {**{field: record[field] for field in fields}, **known}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{self.name}: {path} is damaged: its record cannot be read ({error!r})") from error
        if kind != self.kind:
            raise ValueError(f"{self.name}: {path} holds weft's {kind!r}, not {self.what}")
        raise ValueError(
            f"{self.name}: {path} has format {version}; this version of weft reads up to {self.format}; update weft"
        )

    def read_tensors(self, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors in fp32, and all metadata, of any safetensors file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is cut short or no safetensors file.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{self.name}: there is no file {path}")
        try:
            with safe_open(path, framework="pt") as opened:
                tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118 - no mapping
                return tensors, opened.metadata() or {}
        except SafetensorError as error:
            raise ValueError(
                f"{self.name}: {path} is no whole safetensors file: it is cut short, damaged or of another kind "
                f"({error})"
            ) from error
