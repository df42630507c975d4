"""Training: one loop, one way to keep and resume a run, and a ``fit_*`` for each thing that can be learnt.

Names are looked up on first use, so importing this room loads neither diffusers nor accelerate.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft.train.core.config import LoopConfig
    from weft.train.core.stopping import Diverged, Interrupted
    from weft.train.distribution.config import DistributionConfig
    from weft.train.encoded.pairs import encode_pairs
    from weft.train.gan.config import GanConfig
    from weft.train.gan.fit import fit_gan
    from weft.train.gan.generator import Generator
    from weft.train.residual.fit import ResidualConfig, fit_residual
    from weft.train.soft_tokens.config import SoftTokensConfig
    from weft.train.soft_tokens.fit import fit_soft_tokens
    from weft.train.task_prompts.fit import TaskPromptsConfig, fit_task_prompts
    from weft.train.task_prompts.mixture import Mixture
    from weft.train.task_prompts.pictures import MaskedObject, MaskedPicture
    from weft.train.task_prompts.unet import inpainting_pipeline

_HOMES = {
    "DistributionConfig": "distribution.config",
    "Diverged": "core.stopping",
    "GanConfig": "gan.config",
    "Generator": "gan.generator",
    "Interrupted": "core.stopping",
    "LoopConfig": "core.loop",
    "MaskedObject": "task_prompts.pictures",
    "MaskedPicture": "task_prompts.pictures",
    "Mixture": "task_prompts.mixture",
    "ResidualConfig": "residual.fit",
    "SoftTokensConfig": "soft_tokens.config",
    "TaskPromptsConfig": "task_prompts.fit",
    "encode_pairs": "encoded.pairs",
    "fit_gan": "gan.fit",
    "fit_residual": "residual.fit",
    "fit_soft_tokens": "soft_tokens.fit",
    "fit_task_prompts": "task_prompts.fit",
    "inpainting_pipeline": "task_prompts.unet",
}

__all__ = [
    "DistributionConfig",
    "Diverged",
    "GanConfig",
    "Generator",
    "Interrupted",
    "LoopConfig",
    "MaskedObject",
    "MaskedPicture",
    "Mixture",
    "ResidualConfig",
    "SoftTokensConfig",
    "TaskPromptsConfig",
    "encode_pairs",
    "fit_gan",
    "fit_residual",
    "fit_soft_tokens",
    "fit_task_prompts",
    "inpainting_pipeline",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'weft.train' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"weft.train.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
