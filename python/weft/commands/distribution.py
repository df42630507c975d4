"""Options of the distribution-sensitive losses, which several ``weft train`` commands share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from weft.train.distribution_config import DistributionConfig


@dataclass(frozen=True)
class DistributionOptions:
    """What is generated in training, and how it is compared; a command has these among its own."""

    losses: str = "none"
    """none, f2f (generated pictures of one meaning agree), f2r (and agree with real ones), or f2f,f2r."""
    losses_weight: float = 0.3
    """Of all --losses: f2f counts this times --f2f-weight beside the objective, f2r this times --f2r-weight."""
    f2f_weight: float = 0.2
    """Of fake-to-fake among --losses; 0 only logs it."""
    f2f_temperature: float = 0.5
    """Of its softmax."""
    f2r_weight: float = 1.0
    """Of fake-to-real among --losses; 0 only logs it."""
    f2r_temperature: float = 0.1
    """Of its softmax."""
    symmetric: bool = True
    """Whether real pictures look for their generated ones in f2r, too."""
    pairing: Literal["two_captions", "two_noises"] = "two_captions"
    """What the second picture of f2f is: another caption with the same noise, or another noise with the same."""
    through: Literal["x0", "chain"] = "x0"
    """What --losses compare: x0, clean pictures predicted from noisy ones; chain, pictures drawn from noise alone."""
    chain_steps: int = 4
    """With --through chain: passes of the model for a picture; more are slower, but need no more memory."""
    features: Path | None = None
    """Folder of a vision model of transformers that --losses look with; the frozen denoiser if not given."""


def distribution_of(options: DistributionOptions, *, who: str) -> DistributionConfig:
    """What ``options`` say.

    Raises:
        ValueError: A loss that is unknown, or a number out of its range; or an option that the losses chosen do not
            read.
        FileNotFoundError: No vision model in a folder.
    """
    from weft.methods.distribution_losses import losses_named
    from weft.train.distribution_config import DistributionConfig
    from weft.train.vision_features import vision_features

    _check(options, [loss.name for loss in losses_named(options.losses)], who)
    losses = losses_named(
        options.losses,
        features=None if options.features is None else vision_features(options.features),
        pairing=options.pairing,
        f2f_weight=options.f2f_weight,
        f2f_temperature=options.f2f_temperature,
        f2r_weight=options.f2r_weight,
        f2r_temperature=options.f2r_temperature,
        symmetric=options.symmetric,
    )
    return DistributionConfig(losses, options.losses_weight, through=options.through, chain_steps=options.chain_steps)


# what reads an option: one of these losses at least
_READ_BY = {
    ("f2f",): ("f2f_weight", "f2f_temperature", "pairing"),
    ("f2r",): ("f2r_weight", "f2r_temperature", "symmetric"),
    ("f2f", "f2r"): ("losses_weight", "through", "chain_steps", "features"),
}


def _check(options: DistributionOptions, chosen: Collection[str], who: str) -> None:
    """Refuse what nothing would read."""
    default = DistributionOptions()
    for losses, names in _READ_BY.items():
        given = [_flag(options, name) for name in names if getattr(options, name) != getattr(default, name)]
        if given and not any(loss in chosen for loss in losses):
            raise ValueError(
                f"{who}: {', '.join(given)} must go with --losses {' or '.join(losses)}; got --losses "
                f"{options.losses}; name it there, or leave out what nothing would read"
            )
    if options.chain_steps != default.chain_steps and options.through != "chain":
        raise ValueError(
            f"{who}: --chain-steps must go with --through chain; got --through {options.through}, which takes one "
            "step; choose the chain, or leave its steps out"
        )


def _flag(options: DistributionOptions, name: str) -> str:
    """How the command line gave an option."""
    return ("--no-" if getattr(options, name) is False else "--") + name.replace("_", "-")
