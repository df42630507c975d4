"""The distribution-sensitive losses on the command line: by name, and no option that nothing would read."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from weft.train.distribution import DistributionConfig, NamedLosses, losses_named

ReadBy = dict[tuple[str, ...], tuple[str, ...]]

# what reads an option: one of these losses at least
READ_BY_ONE: ReadBy = {
    ("f2f",): ("f2f_weight", "f2f_temperature", "pairing"),
    ("f2r",): ("f2r_weight", "f2r_temperature", "symmetric"),
}
READ_BY: ReadBy = {**READ_BY_ONE, ("f2f", "f2r"): ("features", "class_mask")}
_READ_BY_TERM: ReadBy = {("f2f", "f2r"): ("weight", "times", "through", "chain_steps")}
_FLAGS = {"weight": "losses_weight", "times": "losses_times"}  # where a field has another name


@dataclass(frozen=True, kw_only=True)
class NamedLossesAndFeatures(NamedLosses):
    """What generated pictures are compared with, and how."""

    features: Path | None = None
    """Folder of a vision model of transformers that --losses look with; the frozen denoiser if not given."""


def with_losses(config: DistributionConfig, named: NamedLossesAndFeatures, *, who: str) -> DistributionConfig:
    """``config`` with the losses that are named.

    Raises:
        ValueError: A loss that is unknown, or a number out of its range; or an option that the losses chosen do not
            read.
        FileNotFoundError: No vision model in a folder.
    """
    from weft.train.distribution import vision_features

    check_read(named, READ_BY, losses=named.losses, who=who)
    check_read(config, _READ_BY_TERM, losses=named.losses, who=who)
    if config.chain_steps != DistributionConfig.chain_steps and config.through != "chain":
        raise ValueError(
            f"{who}: --chain-steps must go with --through chain; got --through {config.through}, which takes one "
            "step; choose the chain, or leave its steps out"
        )
    features = None if named.features is None else vision_features(named.features)
    return replace(config, losses=named.chosen_losses(features))


def check_read(options: Any, read_by: ReadBy, *, losses: Any, who: str) -> None:
    """Refuse options that nothing would read.

    Args:
        options: A record of them; what differs from its default was given.
        read_by: Losses -> options that one of them at least must read.
        losses: Names of the losses chosen.

    Raises:
        ValueError: There are some, or a loss that is unknown.
    """
    chosen = {loss.name for loss in losses_named(losses)}
    default = {field.name: field.default for field in fields(options)}
    for readers, names in read_by.items():
        given = [_flag(name, getattr(options, name), default[name]) for name in names]
        given = [flag for flag in given if flag]
        if given and not chosen & set(readers):
            raise ValueError(
                f"{who}: {', '.join(given)} must go with --losses {' or '.join(readers)}; got --losses "
                f"{losses}; name it there, or leave out what nothing would read"
            )


def _flag(name: str, value: Any, default: Any) -> str:
    """How the command line gave an option; nothing where it did not."""
    if value == default:
        return ""
    return ("--no-" if value is False and default is True else "--") + _FLAGS.get(name, name).replace("_", "-")
