"""Training: one loop, one way to keep and resume a run, and a ``fit_*`` for each thing that can be learnt.

Names are looked up on first use, so importing this room loads neither diffusers nor accelerate.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft.train.distribution_config import DistributionConfig
    from weft.train.encoded_pairs import encode_pairs
    from weft.train.gan.config import GanConfig
    from weft.train.gan.fit import fit_gan
    from weft.train.gan.generator import Generator
    from weft.train.inpainting_mixture import Mixture
    from weft.train.inpainting_pictures import MaskedObject, MaskedPicture
    from weft.train.inpainting_unet import inpainting_pipeline
    from weft.train.loop import LoopConfig
    from weft.train.residual import ResidualConfig, fit_residual
    from weft.train.soft_tokens import fit_soft_tokens
    from weft.train.soft_tokens_config import SoftTokensConfig
    from weft.train.stopping import Diverged, Interrupted
    from weft.train.task_prompts import TaskPromptsConfig, fit_task_prompts

_HOMES = {
    "DistributionConfig": "distribution_config",
    "Diverged": "stopping",
    "GanConfig": "gan.config",
    "Generator": "gan.generator",
    "Interrupted": "stopping",
    "LoopConfig": "loop",
    "MaskedObject": "inpainting_pictures",
    "MaskedPicture": "inpainting_pictures",
    "Mixture": "inpainting_mixture",
    "ResidualConfig": "residual",
    "SoftTokensConfig": "soft_tokens_config",
    "TaskPromptsConfig": "task_prompts",
    "encode_pairs": "encoded_pairs",
    "fit_gan": "gan.fit",
    "fit_residual": "residual",
    "fit_soft_tokens": "soft_tokens",
    "fit_task_prompts": "task_prompts",
    "inpainting_pipeline": "inpainting_unet",
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
