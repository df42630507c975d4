"""A name for the weights of a model, so that what one model gave is not taken for what another gives."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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
