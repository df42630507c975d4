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
    from weft.methods.attention_maps.control import AttentionMaps
    from weft.methods.maskdiffusion.control import MaskDiffusion
    from weft.methods.powerpaint.branch import TaskBranch
    from weft.methods.powerpaint.prompts import TaskPrompts
    from weft.methods.residuals.control import LocalizedResiduals
    from weft.methods.residuals.residual import Residual
    from weft.methods.soft_tokens.control import SoftTokens
    from weft.train.distribution.losses import FakeToFake, FakeToReal

__version__ = "0.1.0"

# name -> module it is an attribute of
_LAZY = {
    "Attachment": "weft.attach",
    "AttentionMaps": "weft.methods.attention_maps.control",
    "FakeToFake": "weft.train.distribution.losses",
    "FakeToReal": "weft.train.distribution.losses",
    "LocalizedResiduals": "weft.methods.residuals.control",
    "MaskDiffusion": "weft.methods.maskdiffusion.control",
    "Residual": "weft.methods.residuals.residual",
    "SoftTokens": "weft.methods.soft_tokens.control",
    "TaskBranch": "weft.methods.powerpaint.branch",
    "TaskPrompts": "weft.methods.powerpaint.prompts",
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
