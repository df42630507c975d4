"""``fit_soft_tokens``: learn tokens by which a frozen model follows its prompts more closely (SoftREPA)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

import weft
from weft.attach import base_model, resolve
from weft.methods.soft_tokens import SoftTokens
from weft.train.core import check_run, fit, make_accelerator, sampling_of, torch_generator, validation
from weft.train.diffusion import caption_fits, check_denoiser, frozen, noising_of, picture_size
from weft.train.distribution import ViewBatches, check_captions, distribution_term
from weft.train.encoded import PairBatches, encode
from weft.train.pictures import SMALLEST_SHARE, digest_of_pairs, read_pairs
from weft.train.soft_tokens.bank import TrainedTokens, check_attention
from weft.train.soft_tokens.captioned_latents import CaptionedLatents
from weft.train.soft_tokens.config import SoftTokensConfig
from weft.train.soft_tokens.early_stopping import EarlyStopping
from weft.train.soft_tokens.frozen_denoiser import FrozenDenoiser
from weft.train.soft_tokens.layout import TokenLayout
from weft.train.soft_tokens.objective import SoftTokensObjective
from weft.train.soft_tokens.prepared import laid_out, make_objective

WHO = "fit_soft_tokens"


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

    With ``config.distribution`` they also learn from what the model then generates: that pictures agree under two
    captions of one picture, and with that picture.

    The model stays frozen and is given back as it was. Latents are encoded once.

    Args:
        pipe: A Stable Diffusion 1.x, 2.x, XL or 3 pipeline of diffusers. With fp16 weights train on a GPU.
        pairs: Pictures with captions: a folder with ``metadata.jsonl`` or with a text file beside every picture, a
            sequence of (picture, caption), or a dataset of the datasets library with columns "image" and "text", and
            "negatives" where captions that are close and wrong are to be used.
        config: Numbers; None for the defaults.
        folder: Keeps checkpoints, log and validation pictures. None keeps nothing, and then Ctrl-C raises at once.
        resume: Go on from the checkpoint in ``folder``; on a CPU with the same bits as if nothing had happened.
        accelerator: Device, precision and processes; None makes one for the device of ``pipe``. In the contrast the
            captions of all processes are compared with each picture, in agsm those of its own.
        base_name: Name of the model to keep with the result; None for what diffusers remembers.
        encoded: A folder for what the pictures are encoded to, as ``encode_pairs`` makes it; what it lacks is made
            first, and any run on the same pairs may use it again. The result is the same, but for rounding where the
            folder has text too. None keeps it in memory, in every process: a picture takes 128 KiB with Stable
            Diffusion 1.5 at 512 pixels, 512 KiB with XL and 2 MiB with 3 at 1024 pixels, so from some ten thousand
            pictures on a folder is better.

    Returns:
        The tokens, fp32 on the CPU: with ``held_out`` the best that were measured, else the moving average where the
        loop keeps one (with agsm it always does), else the last.

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
        Lee et al. 2025, arXiv:2503.08250, as in its released code; ``objective="agsm"``: arXiv:2605.30038.
    """
    config = config or SoftTokensConfig()
    folder = None if folder is None else Path(folder)
    config.check(folder, who=WHO)
    host = resolve(pipe)
    base = base_model(host, base_name)
    check_denoiser(host, who=WHO)
    size = picture_size(host, config.resolution, who=WHO)
    layout = laid_out(config, host, who=WHO)
    noising = noising_of(host, shifted=config.shifted_time)
    found = read_pairs(
        pairs,
        smallest=-(-size // SMALLEST_SHARE),
        fits=lambda caption: caption_fits(host, caption, layout.text_length),
        most_missing=config.most_missing,
        who=WHO,
    )
    if config.wrong_captions and not any(pair.negatives for pair in found):
        raise ValueError(f"{WHO}: `wrong_captions` needs pairs with `negatives`; none has any")
    check_captions(found, config.distribution.pairing, who=WHO)
    # errors are raised before pictures are encoded, which takes the longest
    held_out = _held_out(len(found), config)
    if accelerator is None:
        accelerator = make_accelerator(pipe.device, config.precision, folder, tensorboard=config.tensorboard)
    pipe.to(accelerator.device)
    start = layout.start(host, config.tokens, seed=config.seed, base_name=base.name)
    identity = {
        "base_model": base.name,
        "pairs": digest_of_pairs(found),
        "resolution": size,
        **asdict(layout),
        **config.identity(),
    }
    check_run("soft tokens", folder, resume, identity)
    control = TrainedTokens(layout.blocks, layout.space)
    with weft.attach(pipe) as attachment:
        check_attention(attachment, who=WHO)
        attachment.add(control)  # which looks for its blocks
    batches = PairBatches(
        host,
        found,
        *encode(
            host,
            found,
            size,
            encoded,
            text_length=layout.text_length,
            accelerator=accelerator,
            base_name=base.name,
            who=WHO,
        ),
        range(len(found)),
        config.loop.batch_size,
        noising.times,
        shared_noise=config.shared_noise,
        shared_time=config.shared_time,
        text_length=layout.text_length,
        wrong_captions=config.wrong_captions,
        seed=config.seed,
    )
    order = torch.randperm(len(found), generator=torch_generator(config.seed, 3)).tolist()
    trained, held = (batches.part(sorted(part)) for part in (order[held_out:], order[:held_out]))
    with weft.attach(pipe, control), frozen(host.denoiser, config.gradient_checkpointing):
        denoiser = FrozenDenoiser(host, control, noising)
        objective = make_objective(config, denoiser, start, accelerator, layout)
        objective.term = distribution_term(
            host,
            config.distribution,
            noising,
            partial(denoiser.generate, None),
            control.hiding,
            accelerator=accelerator,
            rows_at_once=config.rows_at_once,
            text_length=layout.text_length,
        )
        control.tokens_at = objective.shown
        of_process = replace(trained, process=accelerator.process_index)
        batch_at = of_process if objective.term is None else ViewBatches(of_process, config.distribution, noising)
        stopping = EarlyStopping(
            lambda: _measured(objective, held, accelerator),
            objective.kept,
            every=config.measure_every,
            patience=config.patience,
            folder=folder,
            resume=resume,
        )
        draw = _validation(pipe, config, layout, folder, found[0].captions[0])

        def after_step(step: int) -> bool:
            if draw is not None:
                draw(step)
            return len(held.pairs) > 0 and stopping(step)

        average = fit(
            "soft tokens",
            objective,
            batch_at,
            config.averaged_loop,
            accelerator,
            folder,
            resume=resume,
            identity=identity,
            after_step=after_step,
        )
    for tracker in accelerator.trackers:
        tracker.finish()
    (best,) = broadcast_object_list([stopping.best])  # measured on the main process alone
    return replace(objective.learnt(average if best is None else best), sampling=sampling_of(config, pipe))


def _held_out(pairs: int, config: SoftTokensConfig) -> int:
    """How many pairs are not trained on.

    Raises:
        ValueError: Too few are left on either side.
    """
    held = round(config.held_out * pairs)
    if config.held_out and min(held, pairs - held) < config.loop.batch_size:
        raise ValueError(
            f"{WHO}: `held_out` {config.held_out:g} of {pairs} pairs leaves {held} to measure and "
            f"{pairs - held} to train on; both must be a batch of {config.loop.batch_size} at least"
        )
    return held


def _measured(objective: SoftTokensObjective, held: PairBatches, accelerator: Accelerator) -> float:
    """The mean over pairs that are not trained on, always with the same noise."""
    values = []
    with accelerator.autocast():
        for first in range(0, len(held.pairs) - held.size + 1, held.size):
            batch = CaptionedLatents(*(part.to(accelerator.device) for part in held(first)))
            values.append(objective.measure(batch))
    return sum(values) / len(values)


def _validation(
    pipe: Any, config: SoftTokensConfig, layout: TokenLayout, folder: Path | None, caption: str
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
        options={} if layout.text_length is None else {"max_sequence_length": layout.text_length},
    )
