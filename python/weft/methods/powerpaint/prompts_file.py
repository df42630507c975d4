"""weft's own file of task prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.methods.files import KEY, Artefact
from weft.methods.powerpaint.prompts_text import Vectors
from weft.methods.powerpaint.recipes import NAMES, PromptName
from weft.methods.sampling import LATER, Sampling

FILE = Artefact(
    "TaskPrompts",
    "task prompts",
    "task prompts",
    instead="for released weights give the folder, or train some by weft.train.fit_task_prompts",
)
__all__ = ["FILE", "KEY", "RECORD", "read", "write"]

RECORD = ("placement", "dialect", "base_name", "init")
ENCODERS = ("text_encoder", "text_encoder_2")


def write(path: Path, vectors: Mapping[PromptName, Vectors], record: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Write the vectors of every prompt for every text encoder; whole or not at all."""
    tensors = {
        f"{name}.{encoder}": vector
        for name, own_vectors in vectors.items()
        for encoder, vector in zip(ENCODERS, own_vectors, strict=False)
    }
    FILE.write(path, tensors, record, {}, dtype)


def read(path: Path) -> tuple[dict[PromptName, Vectors], dict[str, Any]]:
    """The vectors and the record of a file that ``write`` made.

    Raises:
        FileNotFoundError, ValueError: As ``Artefact.read``; or a prompt is missing.
    """
    tensors, record = FILE.read(path, RECORD, LATER)
    record["sampling"] = Sampling.of(record["sampling"])
    return {name: _vectors(path, tensors, name) for name in NAMES}, record


def _vectors(path: Path, tensors: Mapping[str, Tensor], name: PromptName) -> Vectors:
    found = tuple(tensors[key] for encoder in ENCODERS if (key := f"{name}.{encoder}") in tensors)
    if not found:
        raise ValueError(f"TaskPrompts: {path} is damaged: it has no vectors of the prompt {name!r}")
    return found
