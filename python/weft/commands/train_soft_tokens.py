"""``weft train soft-tokens``: tokens by which a model follows its prompts more closely."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

import weft
from weft.commands.distribution import NamedLossesAndFeatures, with_losses
from weft.commands.loading import EMBEDDED, EMBEDDED_MODELS
from weft.commands.training import RunOptions, check_out, prepare
from weft.train.soft_tokens import SoftTokensConfig


@dataclass(frozen=True, kw_only=True)
class TrainSoftTokens(RunOptions):
    """Learn a few tokens by which a frozen model follows its prompts more closely (SoftREPA)."""

    pairs: Path
    """Folder of pictures, and metadata.jsonl with the caption or captions of each, or text files, a caption a line."""
    out: Path = Path("soft-tokens.safetensors")
    """The file to write."""
    encoded: Path | None = None
    """Folder for the encoded pictures, which other runs on the same pairs may use too; in memory if not given."""
    model: str = EMBEDDED
    """'embedded', 'embedded-sd3', a diffusers folder, or a model id (Stable Diffusion 1.x, 2.x, XL, 3)."""
    config: Annotated[SoftTokensConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=SoftTokensConfig)
    named: Annotated[NamedLossesAndFeatures, tyro.conf.OmitArgPrefixes] = field(default_factory=NamedLossesAndFeatures)


def train_soft_tokens(options: TrainSoftTokens) -> str:
    """Carry out ``weft train soft-tokens``."""
    from weft.train.soft_tokens import fit_soft_tokens

    check_out(options.out, who="train soft-tokens")
    distribution = with_losses(options.config.distribution, options.named, who="train soft-tokens")
    made = prepare(options, who="train soft-tokens")
    soft = fit_soft_tokens(
        made.pipe,
        options.pairs,
        config=replace(options.config, distribution=distribution),
        folder=made.run,
        resume=options.resume,
        accelerator=made.accelerator,
        base_name=options.model if options.model in EMBEDDED_MODELS else None,
        encoded=options.encoded,
    )
    made.accelerator.end_training()
    if not made.accelerator.is_main_process:
        return ""
    soft.save(options.out)
    numbers = soft.tokens.numel() + (0 if soft.offsets is None else soft.offsets.numel())
    return (
        f"soft tokens: {options.out} ({soft.tokens.shape[-2]} tokens, {numbers:,} numbers); draw with "
        f"weft generate --soft-tokens {options.out}; run: {made.run}; weft {weft.__version__}"
    )
