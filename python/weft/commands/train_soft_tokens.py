"""``weft train soft-tokens``: tokens by which a model follows its prompts more closely."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

import weft
from weft.commands.distribution import DistributionOptions, distribution_of
from weft.commands.loading import EMBEDDED, EMBEDDED_MODELS
from weft.commands.training import RunOptions, check_out, config_of, prepare

Blocks = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")]
Strings = Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT [TEXT ...]")]


@dataclass(frozen=True)
class _SoftTokens:
    """What is learnt, from what, and how."""

    pairs: Path
    """Folder of pictures, and metadata.jsonl with the caption or captions of each, or text files, a caption a line."""
    out: Path = Path("soft-tokens.safetensors")
    """The file to write."""
    encoded: Path | None = None
    """Folder for the encoded pictures, which other runs on the same pairs may use too; in memory if not given."""
    model: str = EMBEDDED
    """'embedded', 'embedded-sd3', a diffusers folder, or a model id (Stable Diffusion 1.x, 2.x, XL, 3)."""
    steps: int = 5000
    """Updates of the tokens."""
    learning_rate: float = 1e-3
    """Of AdamW."""
    batch_size: int = 8
    """Pictures on one device in one step, each against the captions of all."""
    average_decay: float = 0.0
    """Of a moving average of the tokens, a step, which is what is written then; 0 for none, with agsm for 0.999."""
    rows_at_once: int | None = None
    """Pictures in one pass of the model, against all captions; fewer need less memory, for the same result."""
    tokens: int = 4
    """How many."""
    layout: Literal["default", "released"] = "default"
    """Where in the model they lie and how they begin, where the options below do not say; released: as published."""
    blocks: Blocks | None = None
    """Parts of the model that see them, such as down_blocks or transformer_blocks.0."""
    time_buckets: int | None = None
    """Stretches of the noise schedule with offsets of their own; 0 for none."""
    init: Literal["start", "copies", "normal"] | None = None
    """start is copies of the start token with some noise; copies, as published for 1.5, stay equal for ever."""
    text_length: int | None = None
    """Tokens of T5's text, with Stable Diffusion 3."""
    objective: Literal["agsm", "contrast"] = "agsm"
    """contrast: every caption of a batch against every picture; agsm: its own and a few, towards bounded targets."""
    denoising_weight: float | None = None
    """With contrast: of the error of matching pairs beside it."""
    direction: Literal["image_to_text", "both"] = "image_to_text"
    """With contrast: compare captions among pictures too."""
    learn_logit: bool = False
    """With contrast: learn the two constants of its logit."""
    negatives: int = 3
    """With agsm: captions of other pictures each is compared with."""
    wrong_captions: int = 0
    """Of the pairs' own negatives, which metadata.jsonl may name: how many each picture is compared with."""
    gamma_plus: float = 1.0
    """With agsm: guidance towards the own caption."""
    gamma_minus: float = 1.0
    """With agsm: and away from others; published: 1, with Stable Diffusion 3 0.1."""
    sharpness: float = 1.0
    """With agsm: how much more a caption counts that fits better."""
    shared_noise: bool = True
    """One noise for all pictures of a batch."""
    shared_time: bool = True
    """One time for all pictures of a batch; otherwise they come one at a time."""
    shifted_time: bool = False
    """With Stable Diffusion 3: times that crowd at noise, as its sampler's do."""
    most_missing: float = 0.01
    """Share of the pairs that may lack a picture or a caption and are passed over."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    held_out: float = 0.0
    """Share of the pairs that is not trained on; how well they match tells when to stop, and which are the best."""
    measure_every: int = 250
    """Steps between such measurements."""
    patience: int = 3
    """Measurements without a better one, after which training stops."""
    validation_prompts: Strings = ()
    """What the pictures of --validate-every show."""


@dataclass(frozen=True)
class TrainSoftTokens(RunOptions, DistributionOptions, _SoftTokens):
    """Learn a few tokens by which a frozen model follows its prompts more closely (SoftREPA)."""


def train_soft_tokens(options: TrainSoftTokens) -> str:
    """Carry out ``weft train soft-tokens``."""
    from weft.train.core import LoopConfig
    from weft.train.soft_tokens import SoftTokensConfig, fit_soft_tokens

    check_out(options.out, who="train soft-tokens")
    loop = config_of(LoopConfig, options, weight_decay=1e-4)
    distribution = distribution_of(options, who="train soft-tokens")
    config = config_of(SoftTokensConfig, options, loop=loop, distribution=distribution)
    made = prepare(options, who="train soft-tokens")
    soft = fit_soft_tokens(
        made.pipe,
        options.pairs,
        config=config,
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
