"""``fit_soft_tokens``: learn tokens by which a frozen model follows its prompts more closely (SoftREPA)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

import weft
from weft.attach.base_model import base_model
from weft.methods.soft_tokens import SoftTokens
from weft.train.accelerator import Precision, make_accelerator
from weft.train.diffusion import (
    caption_fits,
    check_denoiser,
    encode_captions,
    frozen,
    native_size,
    training_scheduler,
)
from weft.train.early_stopping import EarlyStopping
from weft.train.frozen_denoiser import FrozenDenoiser
from weft.train.images import SMALLEST_SHARE
from weft.train.loop import LoopConfig, check_run, fit
from weft.train.pair_batches import PairBatches, encode
from weft.train.pairs import digest, read_pairs
from weft.train.randomness import torch_generator
from weft.train.soft_tokens_agsm import AgsmObjective
from weft.train.soft_tokens_bank import TrainedTokens, check_served
from weft.train.soft_tokens_contrast import ContrastObjective
from weft.train.soft_tokens_objective import CaptionedLatents, SoftTokensObjective
from weft.train.validation import validation

Init = Literal["start", "copies", "normal"]
Objective = Literal["contrast", "agsm"]

TEACHER_DECAY = 0.999  # of agsm's moving average, where the loop names none; not published


@dataclass(frozen=True)
class SoftTokensConfig:
    """Every number of ``fit_soft_tokens``; the defaults are those of the released code for Stable Diffusion 1.5,
    but for ``init``.
    """

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=5000, learning_rate=1e-3, batch_size=8, weight_decay=1e-4)
    )
    tokens: int = 4
    time_buckets: int | None = 100  # stretches of the schedule with offsets of their own; None: there are none
    blocks: tuple[str, ...] = ("down_blocks",)
    # "start": copies of the empty prompt's start token, as large as the model is used to, plus N(0, 0.02^2);
    # "copies": as released, which can never differ from each other and are one token four times; "normal"
    init: Init = "start"
    # "contrast": every caption of a batch against every picture (SoftREPA); "agsm": each picture with its own caption
    # and a few others, towards bounded targets (see AgsmObjective), whose tokens are those of a moving average
    objective: Objective = "contrast"
    denoising_weight: float = 10.0  # contrast: of the error of matching pairs
    logit_scale: float = 4.0  # contrast
    logit_width: float = 0.07  # contrast
    negatives: int = 3  # agsm: captions of other pictures each is compared with
    gamma_plus: float = 1.0  # agsm: guidance towards the own caption; as published for UNets and for SD3
    gamma_minus: float = 1.0  # agsm: and away from others; published 1 for UNets, 0.1 for SD3
    sharpness: float = 1.0  # agsm: A(t); errors are means over a latent, so as many as it has numbers for sums
    shared_noise: bool = True  # one noise for all pictures of a batch; they share the timestep in any case
    rows_at_once: int | None = None  # pictures in one pass, against all captions; None: all. Less memory, same result
    resolution: int | None = None  # pixels; None: the model's own
    most_missing: float = 0.01  # share of pairs without a picture or caption that are passed over
    seed: int = 0
    precision: Precision = "auto"  # compute; tokens stay fp32. auto: bf16 or fp16 on a GPU, none on a CPU
    gradient_checkpointing: bool = False
    held_out: float = 0.0  # share of the pairs that is not trained on; its loss tells when to stop
    measure_every: int = 250  # steps between two such measurements
    patience: int = 3  # measurements without a better one, after which training stops and the best tokens are taken
    validate_every: int | None = None  # steps; pictures go to folder/validation
    validation_prompts: tuple[str, ...] = ()
    validation_steps: int = 25  # of the sampler
    tensorboard: bool = False  # logs to folder/tensorboard


def fit_soft_tokens(
    pipe: Any,
    pairs: Any,
    *,
    config: SoftTokensConfig | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    accelerator: Accelerator | None = None,
    base_name: str | None = None,
    encoded: str | Path | None = None,
) -> SoftTokens:
    """Learn tokens that make every picture of ``pairs`` easier to denoise with its own caption than with others.

    The model stays frozen and is given back as it was. Latents are encoded once.

    Args:
        pipe: A Stable Diffusion 1.x, 2.x or XL pipeline of diffusers. With fp16 weights train on a GPU.
        pairs: Pictures with captions: a folder with ``metadata.jsonl`` or with a text file beside every picture, a
            sequence of (picture, caption), or a dataset of the datasets library with columns "image" and "text".
        config: Numbers; None for the released ones.
        folder: Keeps checkpoints, log and validation pictures. None keeps nothing, and then Ctrl-C raises at once.
        resume: Go on from the checkpoint in ``folder``; on a CPU with the same bits as if nothing had happened.
        accelerator: Device, precision and processes; None makes one for the device of ``pipe``. The captions of all
            processes are compared with each picture.
        base_name: Name of the model to keep with the result; None for what diffusers remembers.
        encoded: A folder for what the pictures are encoded to, as ``encode_pairs`` makes it; what it lacks is made
            first, and any run on the same pairs may use it again. The result is the same. None keeps it in memory,
            in every process: for Stable Diffusion 1.5 at 512 pixels 128 KiB a picture, for XL at 1024 pixels 512 KiB,
            so that some ten thousand pictures are the most that one would want without a folder.

    Returns:
        The tokens, fp32 on the CPU: with ``held_out`` the best that were measured, else the moving average where the
        loop keeps one, else the last.

    Raises:
        TypeError: Not a pipeline, or pairs that are none.
        FileNotFoundError: A folder that is not there.
        ValueError: Too few pairs or too many that cannot be used, captions that are all equal, a batch of one, an
            option out of range, a model of another family or with attention of other tools, a checkpoint of another
            run, or a folder ``encoded`` of other pairs.
        OSError: The disk of ``encoded`` is full; running again goes on.
        weft.train.Diverged: The loss is not finite; the last good checkpoint is kept.
        weft.train.Interrupted: Ctrl-C or SIGTERM with ``folder``; the checkpoint has been written.

    Source:
        Lee et al. 2025, arXiv:2503.08250, as in its released code.
    """
    config = config or SoftTokensConfig()
    folder = None if folder is None else Path(folder)
    _check(config, folder)
    base = base_model(pipe, base_name)
    check_denoiser(pipe, who="fit_soft_tokens")
    size = config.resolution or native_size(pipe)
    found = read_pairs(
        pairs,
        smallest=-(-size // SMALLEST_SHARE),
        fits=lambda caption: caption_fits(pipe, caption),
        most_missing=config.most_missing,
        who="fit_soft_tokens",
    )
    # what can be wrong is told before pictures are encoded, which takes the longest
    held_out = _held_out(len(found), config)
    if accelerator is None:
        accelerator = make_accelerator(pipe.device, config.precision, folder, tensorboard=config.tensorboard)
    scheduler = training_scheduler(pipe)
    pipe.to(accelerator.device)
    start = _start(pipe, config, base.name)
    identity = {
        "base_model": base.name,
        "pairs": digest(found),
        "resolution": size,
        **{name: getattr(config, name) for name in _IDENTITY},
    }
    check_run("soft tokens", folder, resume, identity)
    control = TrainedTokens(config.blocks)
    with weft.attach(pipe, control) as attachment:
        check_served(attachment, who="fit_soft_tokens")
    batches = PairBatches(
        pipe,
        found,
        *encode(pipe, found, size, encoded, accelerator=accelerator, base_name=base.name, who="fit_soft_tokens"),
        range(len(found)),
        config.loop.batch_size,
        scheduler.config.num_train_timesteps,
        shared_noise=config.shared_noise,
        seed=config.seed,
    )
    order = torch.randperm(len(found), generator=torch_generator(config.seed, 3)).tolist()
    trained, held = (batches.part(sorted(part)) for part in (order[held_out:], order[:held_out]))
    with weft.attach(pipe, control), frozen(pipe.unet, config.gradient_checkpointing):
        objective = _objective(FrozenDenoiser(pipe.unet, control, scheduler), start, config, accelerator)
        control.tokens_at = objective.bank.shown
        stopping = EarlyStopping(
            lambda: _measured(objective, held),
            objective.kept,
            every=config.measure_every,
            patience=config.patience,
            folder=folder,
            resume=resume,
        )
        draw = _validation(pipe, config, folder, found[0].captions[0])

        def after_step(step: int) -> bool:
            if draw is not None:
                draw(step)
            return len(held.pairs) > 0 and stopping(step)

        average = fit(
            "soft tokens",
            objective,
            replace(trained, process=accelerator.process_index),
            _loop(config),
            accelerator,
            folder,
            resume=resume,
            identity=identity,
            after_step=after_step,
        )
    for tracker in accelerator.trackers:
        tracker.finish()
    (best,) = broadcast_object_list([stopping.best])  # measured on the main process alone
    return objective.learnt(average if best is None else best)


_COUNTS = ("tokens", "time_buckets", "rows_at_once", "negatives", "validate_every", "measure_every", "patience")

# fields of the configuration that make another run
_IDENTITY = (
    *("tokens", "time_buckets", "blocks", "init", "denoising_weight", "logit_scale", "logit_width", "shared_noise"),
    *("objective", "negatives", "gamma_plus", "gamma_minus", "sharpness", "held_out", "seed"),
)


def _objective(
    denoiser: FrozenDenoiser, start: SoftTokens, config: SoftTokensConfig, accelerator: Accelerator
) -> SoftTokensObjective:
    kind, names = _OBJECTIVES[config.objective]
    options = {name: getattr(config, name) for name in names}
    return kind(denoiser, start, accelerator=accelerator, rows_at_once=config.rows_at_once, **options)


# an objective, and the fields of the configuration that are its own
_OBJECTIVES: dict[Objective, tuple[type[SoftTokensObjective], tuple[str, ...]]] = {
    "contrast": (ContrastObjective, ("denoising_weight", "logit_scale", "logit_width")),
    "agsm": (AgsmObjective, ("negatives", "gamma_plus", "gamma_minus", "sharpness")),
}


def _loop(config: SoftTokensConfig) -> LoopConfig:
    """With the moving average that the objective needs."""
    needs = config.objective == "agsm" and config.loop.average_decay == 0
    return replace(config.loop, average_decay=TEACHER_DECAY) if needs else config.loop


def _held_out(pairs: int, config: SoftTokensConfig) -> int:
    """How many pairs are not trained on.

    Raises:
        ValueError: Too few are left on either side.
    """
    held = round(config.held_out * pairs)
    if config.held_out and min(held, pairs - held) < config.loop.batch_size:
        raise ValueError(
            f"fit_soft_tokens: `held_out` {config.held_out:g} of {pairs} pairs leaves {held} to measure and "
            f"{pairs - held} to train on; both must be a batch of {config.loop.batch_size} at least"
        )
    return held


def _measured(objective: SoftTokensObjective, held: PairBatches) -> float:
    """The mean over pairs that are not trained on, always with the same noise."""
    device = objective.bank.tokens.device
    firsts = range(0, len(held.pairs) - held.size + 1, held.size)
    values = [objective.measure(CaptionedLatents(*(part.to(device) for part in held(first)))) for first in firsts]
    return sum(values) / len(values)


def _validation(
    pipe: Any, config: SoftTokensConfig, folder: Path | None, caption: str
) -> Callable[[int], None] | None:
    if config.validate_every is None or folder is None:
        return None
    return validation(
        pipe,
        list(config.validation_prompts) or [caption],
        folder / "validation",
        every=config.validate_every,
        last=config.loop.end,
        sampler_steps=config.validation_steps,
        seed=config.seed,
    )


def _start(pipe: Any, config: SoftTokensConfig, base_name: str) -> SoftTokens:
    """The tokens that training begins with."""
    generator = torch_generator(config.seed, 0)
    start = encode_captions(pipe, [""]).states[0, 0].float().cpu()
    noise = 0.02 * torch.randn(config.tokens, len(start), generator=generator)
    tokens = {"start": start + noise, "copies": start.expand_as(noise).clone(), "normal": noise}[config.init]
    offsets = None
    if config.time_buckets is not None:
        offsets = 0.02 * torch.randn(config.time_buckets, len(start), generator=generator)
    return SoftTokens(tokens, offsets, config.blocks, base_name)


def _check(config: SoftTokensConfig, folder: Path | None) -> None:
    if config.loop.batch_size < 2:
        raise ValueError(
            f"fit_soft_tokens: `batch_size` must be at least 2, or no picture has a wrong caption; got "
            f"{config.loop.batch_size}"
        )
    if not 0 <= config.held_out < 1:
        raise ValueError(f"fit_soft_tokens: `held_out` must be at least 0 and below 1; got {config.held_out}")
    if config.objective not in _OBJECTIVES:
        raise ValueError(
            f"fit_soft_tokens: `objective` must be one of {', '.join(map(repr, _OBJECTIVES))}; got "
            f"{config.objective!r}"
        )
    if config.objective == "agsm" and config.negatives >= config.loop.batch_size:
        raise ValueError(
            f"fit_soft_tokens: `negatives` must be fewer than the {config.loop.batch_size} pictures of a batch; got "
            f"{config.negatives}"
        )
    for name in _COUNTS:
        value = getattr(config, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"fit_soft_tokens: `{name}` must be a whole number, at least 1; got {value}")
    for name in ("logit_scale", "logit_width"):
        if not getattr(config, name) > 0:
            raise ValueError(f"fit_soft_tokens: `{name}` must be above 0; got {getattr(config, name)}")
    for name in ("denoising_weight", "gamma_plus", "gamma_minus", "sharpness"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"fit_soft_tokens: `{name}` must not be negative; got {getattr(config, name)}")
    if config.init not in ("start", "copies", "normal"):
        raise ValueError(f"fit_soft_tokens: `init` must be 'start', 'copies' or 'normal'; got {config.init!r}")
    if config.resolution is not None and (config.resolution < 8 or config.resolution % 8):
        raise ValueError(f"fit_soft_tokens: `resolution` must be a multiple of 8 pixels; got {config.resolution}")
    if folder is None and (config.validate_every is not None or config.tensorboard):
        raise ValueError("fit_soft_tokens: validation pictures and tensorboard logs need `folder`; got None")
