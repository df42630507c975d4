"""What a configuration asks for, made for one model: where its tokens lie, and what they minimise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from weft.attach import Host
from weft.methods.soft_tokens import SoftTokens
from weft.train.soft_tokens.agsm import AgsmObjective
from weft.train.soft_tokens.config import OPTIONS, Direction, Objective, SoftTokensConfig
from weft.train.soft_tokens.contrast import ContrastObjective
from weft.train.soft_tokens.contrast_both import SymmetricContrastObjective
from weft.train.soft_tokens.frozen_denoiser import FrozenDenoiser
from weft.train.soft_tokens.layout import TokenLayout, layout_of
from weft.train.soft_tokens.objective import SoftTokensObjective

_KINDS: dict[tuple[Objective, Direction], type[SoftTokensObjective]] = {
    ("contrast", "image_to_text"): ContrastObjective,
    ("contrast", "both"): SymmetricContrastObjective,
    ("agsm", "image_to_text"): AgsmObjective,
}
# fields that take the place of a layout's own
_OF_LAYOUT = ("blocks", "time_buckets", "init", "text_length", "denoising_weight")


def laid_out(config: SoftTokensConfig, host: Host, *, who: str) -> TokenLayout:
    """The layout for the model, with what is given here in place of its own.

    Raises:
        ValueError: What does not go together there.
    """
    found, kind = layout_of(host, config.layout), type(host.pipeline).__name__
    given = {name: getattr(config, name) for name in _OF_LAYOUT if getattr(config, name) is not None}
    if found.text_length is None and config.text_length is not None:
        raise ValueError(f"{who}: `text_length` is of Stable Diffusion 3; {kind} has no T5")
    if found.space == "block" and config.init in ("start", "copies"):
        raise ValueError(
            f"{who}: `init` must be 'normal' where the blocks of {kind} see tokens as wide as they "
            f"are themselves; got {config.init!r}"
        )
    if given.get("time_buckets") == 0:
        given["time_buckets"] = None
    return replace(found, **given)


def make_objective(
    config: SoftTokensConfig, denoiser: FrozenDenoiser, start: SoftTokens, accelerator: Any, layout: TokenLayout
) -> SoftTokensObjective:
    """The objective that ``config`` asks for, its tokens as those of ``start``."""
    options = {name: getattr(config, name) for name in OPTIONS[config.objective]}
    kind = _KINDS[config.objective, config.direction]
    if config.objective == "contrast":
        options["denoising_weight"] = layout.denoising_weight
    return kind(denoiser, start, accelerator=accelerator, rows_at_once=config.rows_at_once, **options)
