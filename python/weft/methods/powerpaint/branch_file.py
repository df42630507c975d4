"""weft's own file of a branch: its weights under their released names, and its four texts beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.methods.files import KEY, Artefact
from weft.methods.powerpaint.branch_published import read_branch
from weft.methods.powerpaint.branch_states import STATE_NAMES, STATES, StateName
from weft.methods.powerpaint.network import Branch
from weft.methods.sampling import LATER, Sampling
from weft.methods.tensor_file import TensorFile

FILE = Artefact("TaskBranch", "task branch", "a task branch", instead="for released weights give the folder")
__all__ = ["FILE", "KEY", "RECORD", "read", "write"]

RECORD = ("dialect", "base_name")


def write(
    path: Path,
    network: Branch,
    states: Mapping[StateName, Tensor],
    record: Mapping[str, Any],
    dtype: torch.dtype | None,
) -> None:
    """Write branch and texts; whole or not at all."""
    weights = network.state_dict()
    tensors = {name: weights[own_name] for name, own_name in network.released_names().items()}
    tensors |= {f"{STATES}{name}": state for name, state in states.items()}
    FILE.write(path, tensors, {**record, "config": network.config}, {}, dtype)


def read(found: TensorFile, dtype: torch.dtype | None) -> tuple[Branch, dict[StateName, Tensor], dict[str, Any]]:
    """Branch, texts and record of a file that ``write`` made.

    Raises:
        ValueError: It is damaged, of another kind or of a newer format.
    """
    record = FILE.record(found.path, found.metadata, (*RECORD, "config"), LATER)
    record["sampling"] = Sampling.of(record["sampling"])
    config = record.pop("config")
    missing = [name for name in STATE_NAMES if f"{STATES}{name}" not in found.shapes]
    if missing:
        raise ValueError(f"TaskBranch: {found.path} is damaged: it has no state of the text {missing[0]!r}")
    states: dict[StateName, Tensor] = {name: found.tensor(f"{STATES}{name}").float() for name in STATE_NAMES}
    return read_branch(found, dtype, config), states, record
