"""Facts about a model's weights: a digest, so that results of one are not taken for another's, and missing tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

VALUES = 64  # of a parameter; a model that was trained any further differs nearly everywhere


@torch.no_grad()
def digest_of_weights(modules: Sequence[nn.Module]) -> str:
    """Sixteen letters that depend on names, shapes and dtypes of all parameters, and on some values of each."""
    sha = hashlib.sha256()
    for module in modules:
        found = list(module.named_parameters())
        sha.update(repr([(name, tuple(value.shape), value.dtype) for name, value in found]).encode())
        # one transfer from the device for all
        some = [value.flatten()[:: max(1, value.numel() // VALUES)].float() for _, value in found]
        if some:
            sha.update(torch.cat(some).cpu().numpy().tobytes())
    return sha.hexdigest()[:16]


def lacks_pooler(model: nn.Module, report: Mapping[str, Any]) -> bool:
    """Whether the file of a model of transformers had no pooler, which would be another each time it is read.

    Args:
        report: Of ``from_pretrained(..., output_loading_info=True)``.

    Raises:
        ValueError: Other weights are missing, too.
    """
    lacking = set(report["missing_keys"])
    if others := {name for name in lacking if not name.startswith("pooler.")}:
        raise ValueError(f"{len(others)} weights of {type(model).__name__} are missing, such as {min(others)}")
    return bool(lacking)
