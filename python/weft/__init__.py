"""weft: read, edit and localise what a text-to-image model does, at the speed of fused kernels.

Importing it touches no GPU, compiles nothing and loads neither torch, diffusers nor triton: names are loaded on first
use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from weft._errors import BackendUnavailableError

if TYPE_CHECKING:
    from weft import evaluation, ops, shapes, testing, train
    from weft._dispatch import backend
    from weft.attach import Attachment, attach
    from weft.methods.attention_maps import AttentionMaps
    from weft.methods.distribution_losses import FakeToFake, FakeToReal
    from weft.methods.localized_residuals import LocalizedResiduals
    from weft.methods.maskdiffusion import MaskDiffusion
    from weft.methods.residual import Residual
    from weft.methods.soft_tokens import SoftTokens
    from weft.methods.task_branch import TaskBranch
    from weft.methods.task_prompts import TaskPrompts

__version__ = "0.1.0"

# name -> module it is an attribute of
_LAZY = {
    "Attachment": "weft.attach",
    "AttentionMaps": "weft.methods.attention_maps",
    "FakeToFake": "weft.methods.distribution_losses",
    "FakeToReal": "weft.methods.distribution_losses",
    "LocalizedResiduals": "weft.methods.localized_residuals",
    "MaskDiffusion": "weft.methods.maskdiffusion",
    "Residual": "weft.methods.residual",
    "SoftTokens": "weft.methods.soft_tokens",
    "TaskBranch": "weft.methods.task_branch",
    "TaskPrompts": "weft.methods.task_prompts",
    "backend": "weft._dispatch",
}
# `weft.attach` is a package that can be called, so that importing it never hides the function of its name
_PACKAGES = ("attach", "evaluation", "ops", "shapes", "testing", "train")

__all__ = [
    "Attachment",
    "AttentionMaps",
    "BackendUnavailableError",
    "FakeToFake",
    "FakeToReal",
    "LocalizedResiduals",
    "MaskDiffusion",
    "Residual",
    "SoftTokens",
    "TaskBranch",
    "TaskPrompts",
    "attach",
    "backend",
    "evaluation",
    "ops",
    "shapes",
    "testing",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"weft.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'weft' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
