"""Puts released weights into a stock inpainting pipeline: its UNet and its text encoder, all of both or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from weft.methods.inpainting import check_host
from weft.methods.powerpaint.prompts_published import (
    ADDED,
    BRANCH,
    TABLE,
    TEXT_ENCODERS,
    UNETS,
    WHO,
    WRAPPED,
    is_branch,
)
from weft.methods.tensor_file import TensorFile

_PREFIX = "text_model."  # of a text encoder's tensors, depending on the version of transformers
_NO_WEIGHTS = "position_ids"  # counted up, not learnt; older files have it


def load_weights(pipe: Any, folder: Path) -> None:
    """Copy the UNet and the text encoder of ``folder`` into those of ``pipe``, in their dtype and where they are.

    The table of words gets its own rows; task prompts are not among them.

    Args:
        pipe: An inpainting pipeline of the same architecture, such as Stable Diffusion inpainting.
        folder: Released PowerPaint v1, or the same in diffusers' layout.

    Raises:
        FileNotFoundError: A part is missing.
        ValueError: A part does not fit the pipeline; nothing has been changed then.
    """
    check_host(pipe, who=WHO)
    unet, text = _part(folder, "unet", UNETS), _part(folder, "text_encoder", TEXT_ENCODERS)
    if is_branch(unet):
        raise ValueError(f"{WHO}: {unet.path} is the branch of PowerPaint v2 ({BRANCH[0]}), no inpainting UNet")
    names = {name: name for name in unet.shapes}
    words = {_bare(name): name for name in text.shapes if ADDED not in name and not name.endswith(_NO_WEIGHTS)}
    wide = {_bare(name): name for name in pipe.text_encoder.state_dict() if not name.endswith(_NO_WEIGHTS)}
    _check_fits(unet, names, pipe.unet, {name: name for name in pipe.unet.state_dict()})
    _check_fits(text, words, pipe.text_encoder, wide)
    _copy(unet, names, pipe.unet, {name: name for name in names})
    _copy(text, words, pipe.text_encoder, wide)


def _part(folder: Path, part: str, files: Iterable[str]) -> TensorFile:
    for name in files:
        if (folder / part / name).is_file():
            return TensorFile(folder / part / name, who=WHO)
    raise FileNotFoundError(f"{WHO}: {folder / part} must have one of {', '.join(files)}, for `into`; it has none")


def _bare(name: str) -> str:
    """A name without what depends on versions, and of the table without its wrapping."""
    return name.removeprefix(_PREFIX).replace(WRAPPED, TABLE)


def _check_fits(
    found: TensorFile, released: Mapping[str, str], module: nn.Module, expected: Mapping[str, str]
) -> None:
    """Refuse a file whose tensors are not those of ``module``."""
    missing, unexpected = (
        sorted(expected.keys() - released.keys()),
        sorted(released.keys() - expected.keys()),
    )
    if missing or unexpected:
        listed = [
            f"{what} {len(names)}, such as {names[0]}"
            for what, names in (("lacks", missing), ("adds", unexpected))
            if names
        ]
        raise ValueError(
            f"{WHO}: {found.path} does not fit the pipeline's {type(module).__name__}: of its tensors it "
            f"{' and '.join(listed)}; is it whole, and of the same architecture?"
        )
    state = module.state_dict()
    for name, own_name in expected.items():
        there, here = found.shapes[released[name]], tuple(state[own_name].shape)
        if name.endswith(TABLE) and there[0] > here[0] and there[1:] == here[1:]:
            continue  # rows of the task tokens
        if there != here:
            raise ValueError(
                f"{WHO}: {released[name]} of {found.path} must be {list(here)} for the pipeline's "
                f"{type(module).__name__}; it is {list(there)}"
            )


@torch.no_grad()
def _copy(found: TensorFile, released: Mapping[str, str], module: nn.Module, expected: Mapping[str, str]) -> None:
    state = module.state_dict()
    for name, own_name in expected.items():
        state[own_name].copy_(found.tensor(released[name])[: len(state[own_name])])
