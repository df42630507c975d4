"""Options of the distribution-sensitive losses, which several ``weft train`` commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from weft.train.distribution_config import DistributionConfig


@dataclass(frozen=True)
class DistributionOptions:
    """What is generated in training, and how it is compared; a command has these among its own."""

    losses: str = "none"
    """f2f draws generated pictures of one meaning together, f2r them to the real ones; f2f,f2r for both."""
    losses_weight: float = 0.3
    """Of both, beside the objective."""
    pairing: Literal["two_captions", "two_noises"] = "two_captions"
    """With f2f: two wordings of one picture under one noise, or one wording under two noises."""
    through: Literal["x0", "chain"] = "x0"
    """x0: clean pictures predicted from noisy ones; chain: drawn from noise in a few steps, so as many passes."""
    chain_steps: int = 4
    """Steps of the chain."""
    features: Path | None = None
    """Folder of a vision model of transformers that compares decoded pictures; the model itself if not given."""


def distribution_of(options: DistributionOptions) -> DistributionConfig:
    """What ``options`` say."""
    from weft.methods.distribution_losses import losses_named
    from weft.train.distribution_config import DistributionConfig
    from weft.train.vision_features import vision_features

    features = None if options.features is None else vision_features(options.features)
    losses = losses_named(options.losses, features=features, pairing=options.pairing)
    return DistributionConfig(losses, options.losses_weight, through=options.through, chain_steps=options.chain_steps)
