"""Safetensors files of a residual: tensors, and a record of what they are in the metadata under "weft"."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from weft._files import whole_file

KEY = "weft"
KIND = "residual"
FORMAT = 1  # of the record; a reader refuses what is newer


@dataclass(frozen=True)
class About:
    """The record: fields of ``Residual`` beside its tensors, and the rank of every layer."""

    identifier: str
    class_word: str
    base_name: str
    text_width: int
    is_convolution: bool
    ranks: dict[str, int]


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    about: About | None,
    metadata: Mapping[str, str],
    dtype: torch.dtype,
) -> None:
    """Write ``tensors`` as ``dtype`` with the record and further ``metadata``; whole or not at all."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Residual: cannot write {path}: the folder {path.parent} is not there; make it first")
    record = {"format": "pt", **metadata}
    if about is not None:
        version = importlib.metadata.version("weft")
        record[KEY] = json.dumps({"kind": KIND, "format": FORMAT, "version": version, **asdict(about)}, sort_keys=True)
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        save_file(stored, temporary, metadata=record)


def read(path: Path) -> tuple[dict[str, Tensor], About]:
    """The tensors in fp32, and the record.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is cut short, damaged, not of weft, or of a newer format.
    """
    tensors, metadata = read_tensors(path)
    if KEY not in metadata:
        raise ValueError(
            f"Residual: {path} is not a residual of weft; for an ordinary LoRA use weft.Residual.from_lora"
        )
    try:
        record: dict[str, Any] = json.loads(metadata[KEY])
        kind, version = record["kind"], record["format"]
        if kind == KIND and version <= FORMAT:
            return tensors, About(**{field.name: record[field.name] for field in fields(About)})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"Residual: {path} is damaged: its record cannot be read ({error!r})") from error
    if kind != KIND:
        raise ValueError(f"Residual: {path} holds weft's {kind!r}, not a residual")
    raise ValueError(f"Residual: {path} has format {version}; this version of weft reads up to {FORMAT}; update weft")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors in fp32, and all metadata, of any safetensors file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is cut short or no safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Residual: there is no file {path}")
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118 - no mapping
            return tensors, opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"Residual: {path} is no whole safetensors file: it is cut short, damaged or of another kind ({error})"
        ) from error
