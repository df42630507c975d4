"""Options of the distribution-sensitive losses, which several ``weft train`` commands share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from weft.train.distribution import DistributionConfig

ReadBy = dict[tuple[str, ...], tuple[str, ...]]

# what reads an option: one of these losses at least
READ_BY_ONE: ReadBy = {
    ("f2f",): ("f2f_weight", "f2f_temperature", "pairing"),
    ("f2r",): ("f2r_weight", "f2r_temperature", "symmetric"),
}
_READ_BY: ReadBy = {**READ_BY_ONE, ("f2f", "f2r"): ("losses_weight", "through", "chain_steps", "features")}


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
    from weft.train.distribution import DistributionConfig, losses_named, vision_features

    check_read(options, _READ_BY, who=who)
    if options.chain_steps != DistributionOptions.chain_steps and options.through != "chain":
        raise ValueError(
            f"{who}: --chain-steps must go with --through chain; got --through {options.through}, which takes one "
            "step; choose the chain, or leave its steps out"
        )
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


def check_read(options: Any, read_by: ReadBy, *, who: str) -> None:
    """Refuse options that nothing would read.

    Args:
        options: With ``losses``; what differs from its default was given.
        read_by: Losses -> options that one of them at least must read.

    Raises:
        ValueError: There are some, or a loss that is unknown.
    """
    from weft.train.distribution import losses_named

    chosen = {loss.name for loss in losses_named(options.losses)}
    default = {field.name: field.default for field in fields(options)}
    for losses, names in read_by.items():
        given = [_flag(name, getattr(options, name), default[name]) for name in names]
        given = [flag for flag in given if flag]
        if given and not chosen & set(losses):
            raise ValueError(
                f"{who}: {', '.join(given)} must go with --losses {' or '.join(losses)}; got --losses "
                f"{options.losses}; name it there, or leave out what nothing would read"
            )


def _flag(name: str, value: Any, default: Any) -> str:
    """How the command line gave an option; nothing where it did not."""
    if value == default:
        return ""
    return ("--no-" if value is False and default is True else "--") + name.replace("_", "-")
