"""PowerPaint v2 in the files of others: the released folder, and its copy in diffusers' layout.

The branch is known by the names of its tensors, which have to be there to the last one, in their shapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.methods.powerpaint.branch_states import STATES, StateName
from weft.methods.powerpaint.clip_states import TABLE as BARE_TABLE
from weft.methods.powerpaint.clip_states import bare_name, states_of
from weft.methods.powerpaint.network import (
    CHANNELS,
    UNKNOWN_FROM_SHAPES,
    Branch,
    config_from_shapes,
    empty_branch,
    filled,
)
from weft.methods.powerpaint.prompts_published import (
    ADDED,
    BRANCH,
    BRANCH_FOLDERS,
    TABLE,
    WRAPPED,
    Published,
    is_branch,
    read,
)
from weft.methods.powerpaint.recipes import BRANCH_DIALECTS, NAMES
from weft.methods.tensor_file import PickledFile, TensorFile

WHO = "TaskBranch.load"
OWN = "task_branch.safetensors"  # of weft, in a folder
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
_TEXT_FOLDER = "text_encoder_brushnet"
TEXTS = ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin")  # in their folder, or beside the branch
_V1 = ("text_encoder/text_encoder.safetensors", "unet/unet.safetensors")
_EXPECTED = (
    "a file of weft, the released folder of PowerPaint v2 (PowerPaint_Brushnet, with "
    "diffusion_pytorch_model.safetensors and pytorch_model.bin), or the same in diffusers' layout (the branch, "
    f"{_TEXT_FOLDER} and tokenizer)"
)
_NOT_LEARNT = "position_ids"


def is_branch_at(path: Path) -> bool:
    """Whether ``path`` is, or holds, a branch, whole or not."""
    if any((path / folder).is_dir() for folder in BRANCH_FOLDERS):
        return True
    file = path if path.suffix == ".safetensors" and path.is_file() else _file_in(path)
    return file is not None and is_branch(TensorFile(file, who=WHO))


def find(path: Path) -> TensorFile:
    """The file with the branch that ``path`` is or holds.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is something else, which is named.
    """
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(
                f"{WHO}: {path} is no safetensors file; of a pickled file only the text encoder beside a branch is "
                f"read; needs {_EXPECTED}"
            )
        return _checked_kind(TensorFile(path, who=WHO))
    if not path.is_dir():
        raise FileNotFoundError(f"{WHO}: there is nothing at {path}; needs {_EXPECTED}")
    file = _file_in(path)
    if file is not None:
        return _checked_kind(TensorFile(file, who=WHO))
    if any((path / name).is_file() for name in _V1):
        raise ValueError(
            f"{WHO}: {path} is PowerPaint v1: an inpainting UNet and a text encoder, without a branch; load it with "
            "weft.TaskPrompts.load(path, into=pipe)"
        )
    raise FileNotFoundError(f"{WHO}: {path} holds no branch; needs {_EXPECTED}")


def _file_in(folder: Path) -> Path | None:
    """Where a branch is, in a folder of one."""
    names = (OWN, *(f"{inside}/{name}" for inside in (*BRANCH_FOLDERS, ".") for name in WEIGHTS))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_branch(found: TensorFile, dtype: torch.dtype | None, config: Mapping[str, Any] | None = None) -> Branch:
    """The branch of a file, in ``dtype`` or the file's.

    Args:
        config: What it was made of; None to infer it from its tensors and the ``config.json`` beside it.

    Raises:
        ValueError: A tensor is missing, has another shape, or does not belong there.
    """
    shapes = {name: shape for name, shape in found.shapes.items() if not name.startswith(STATES)}
    if "mid_block.attentions.0.proj_in.weight" not in shapes:
        raise ValueError(
            f"{WHO}: {found.path} is a branch without attention to text, as plain BrushNet is: it reads no task; "
            "needs that of PowerPaint v2"
        )
    if config is None:
        beside = _json(found.path.parent / "config.json")
        # a null says as little as a missing name, a zero or false does not
        unknown = {
            name: value if beside.get(name) is None else beside[name] for name, value in UNKNOWN_FROM_SHAPES.items()
        }
        try:
            config = {**unknown, **config_from_shapes(shapes)}
        except KeyError as error:
            raise ValueError(f"{WHO}: {found.path} is damaged: it lacks {error.args[0]}") from error
    branch = empty_branch(config)
    state = branch.state_dict()
    _check_same(found, shapes, {name: tuple(state[own].shape) for name, own in branch.released_names().items()})
    return filled(branch, {name: tensor.to(dtype) for name, tensor in found.tensors() if name in shapes})


def read_states(found: TensorFile, dialect: str | None) -> tuple[dict[StateName, Tensor], str]:
    """What the four texts of a branch are to it, [Nk, C] each in fp32, and its dialect.

    Args:
        found: The branch, beside whose file the text encoder lies.
        dialect: One of ``BRANCH_DIALECTS``, where nothing says.

    Raises:
        FileNotFoundError: There is no text encoder.
        ValueError: It has no task prompts, or is not whole.
    """
    text = _text_encoder(found.path)
    known = read(text, dialect, dialects=BRANCH_DIALECTS, who=WHO)
    config = _json(text.path.parent / "config.json") if text.path.parent.name == _TEXT_FOLDER else {}
    try:
        weights = _weights(text, known)
        texts = [*known.vectors.values(), torch.zeros(0, weights[BARE_TABLE].shape[1])]
        states = states_of(weights, texts, config)
    except KeyError as error:
        raise ValueError(f"{WHO}: {text.path} is damaged: it lacks {error.args[0]}") from error
    except RuntimeError as error:  # torch's, for tensors of other shapes than the others ask for
        raise ValueError(f"{WHO}: {text.path} is no CLIP text encoder: {error}") from error
    return dict(zip((*known.vectors, "empty"), states, strict=True)), known.dialect


def _text_encoder(branch: Path) -> TensorFile:
    folders = (branch.parent, branch.parent / _TEXT_FOLDER, branch.parent.parent / _TEXT_FOLDER)
    for path in (folder / name for folder in folders for name in TEXTS):
        if path.is_file():
            return (PickledFile if path.suffix == ".bin" else TensorFile)(path, who=WHO)
    raise FileNotFoundError(
        f"{WHO}: {branch} needs its text encoder, from which the task prompts come: {TEXTS[-1]} beside it, or the "
        f"folder {_TEXT_FOLDER}; there is neither"
    )


def _weights(text: TensorFile, known: Published) -> dict[str, Tensor]:
    """The text encoder's tensors by bare names, its table with the vocabulary alone."""
    weights = {
        bare_name(name).replace(WRAPPED, TABLE): tensor
        for name, tensor in text.tensors()
        if ADDED not in name and not name.endswith(_NOT_LEARNT)
    }
    return {**weights, BARE_TABLE: weights[BARE_TABLE][: known.words]}


def _checked_kind(found: TensorFile) -> TensorFile:
    """``found``, unless it is a file of another kind that users have lying beside."""
    if is_branch(found):
        inputs = found.shapes.get(BRANCH[0], (0, CHANNELS))
        if len(inputs) < 2 or inputs[1] != CHANNELS:
            raise ValueError(
                f"{WHO}: {found.path} must have {CHANNELS} input channels (noisy latents, those of the masked "
                f"picture, mask); {BRANCH[0]} is {list(inputs)}"
            )
        return found
    if "conv_in.weight" in found.shapes:
        channels = found.shapes["conv_in.weight"][1]
        what = "an inpainting UNet, as of PowerPaint v1" if channels == CHANNELS else "a UNet"
        raise ValueError(
            f"{WHO}: {found.path} is {what}, with {channels} input channels and no branch ({BRANCH[0]} is missing); "
            "for PowerPaint v1 there is weft.TaskPrompts"
        )
    if found.ending_in(WRAPPED) or found.ending_in(TABLE):
        raise ValueError(
            f"{WHO}: {found.path} is a text encoder; needs the branch beside which it lies, or for PowerPaint v1 "
            "weft.TaskPrompts"
        )
    if any(name.startswith(f"{NAMES[0]}.") for name in found.shapes):
        raise ValueError(f"{WHO}: {found.path} is no branch but task prompts of weft; load it with weft.TaskPrompts")
    raise ValueError(f"{WHO}: {found.path} is no branch: it has no {BRANCH[0]}; needs {_EXPECTED}")


def _check_same(
    found: TensorFile, there: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    missing, unexpected = sorted(wanted.keys() - there.keys()), sorted(there.keys() - wanted.keys())
    if missing or unexpected:
        wrong = [f"{what} {_some(names)}" for what, names in (("lacks", missing), ("adds", unexpected)) if names]
        raise ValueError(
            f"{WHO}: {found.path} must have the {len(wanted)} tensors of a branch; of these it {' and '.join(wrong)}; "
            "is it whole?"
        )
    for name, shape in wanted.items():
        if there[name] != shape:
            raise ValueError(f"{WHO}: {name} of {found.path} must be {list(shape)}; it is {list(there[name])}")


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return f"{len(listed)}, such as {listed[0]}"


def _json(path: Path) -> dict[str, Any]:
    """A configuration, if there is one."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{WHO}: {path} is damaged ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{WHO}: {path} is damaged: it must hold names with values")
    return found
