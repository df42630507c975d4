"""``fit_task_prompts``: teach an inpainting model five tasks, each named by a learnt prompt (PowerPaint)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from weft.attach import base_model, embeddings_of, find_projections, resolve, token_limit
from weft.methods.inpainting import check_host
from weft.methods.powerpaint import NAMES, PromptName, TaskPrompts, Vectors
from weft.train.core import fit, make_accelerator, sampling_of, torch_generator
from weft.train.diffusion import frozen, picture_size, training_scheduler
from weft.train.task_prompts.config import TaskPromptsConfig, Trained
from weft.train.task_prompts.examples import Examples, MaskedBatches
from weft.train.task_prompts.objective import TaskPromptsObjective
from weft.train.task_prompts.pictures import digest, read_masked_pictures
from weft.train.task_prompts.validation import task_validation

ADAPTER = "task_prompts"  # name of the factors among the UNet's adapters
# layers that get factors: the projections of the attention, or those that end its blocks
ADAPTED: dict[Trained, tuple[str, ...]] = {"lora": ("to_q", "to_k", "to_v", "to_out.0"), "residuals": ("proj_out",)}


def fit_task_prompts(
    pipe: Any,
    pictures: Any,
    *,
    config: TaskPromptsConfig | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    accelerator: Accelerator | None = None,
    base_name: str | None = None,
) -> TaskPrompts:
    """Learn prompts by which one inpainting model removes, inserts, fills, continues and extends.

    Args:
        pipe: An inpainting pipeline of diffusers (Stable Diffusion 1.x, 2.x, XL); ``weft.train.inpainting_pipeline``
            makes one of a text-to-image pipeline. Unless ``trains`` is "prompts" its UNet is changed in place: keep it
            with ``pipe.save_pretrained``, or the factors with ``pipe.unet.save_lora_adapter`` beside its first
            convolution.
        pictures: A folder with ``metadata.jsonl`` (rows of ``file_name``, ``text``, and ``objects``, a list of
            ``mask`` and ``text``), or a sequence of ``weft.train.MaskedPicture``.
        config: Numbers; None for the defaults.
        folder: Keeps checkpoints, log and validation sheets. None keeps nothing, and then Ctrl-C raises at once.
        resume: Go on from the checkpoint in ``folder``; on a CPU with the same bits as if nothing had happened.
        accelerator: Device, precision and processes; None makes one for the device of ``pipe``.
        base_name: Name of the model to keep with the result; None for what diffusers remembers.

    Returns:
        The prompts, fp32 on the CPU; the moving average where the loop keeps one (the UNet gets it too).

    Raises:
        TypeError: Not a pipeline, or pictures that are none.
        FileNotFoundError: Pictures that are not there.
        ValueError: No pictures, a UNet that does not see masks, an option out of range, or a checkpoint of another
            run.
        ImportError: ``trains`` = "lora" or "residuals" without peft.
        weft.train.Diverged: The loss is not finite; the last good checkpoint is kept.
        weft.train.Interrupted: Ctrl-C or SIGTERM with ``folder``; the checkpoint has been written.

    Source:
        Zhuang et al. 2024, arXiv:2312.03594, section 3, with the recipes of its released code; vectors begin with
        noise on them, and holes of objects never go without their prompt.
    """
    config = config or TaskPromptsConfig()
    folder = None if folder is None else Path(folder)
    check_host(pipe, who="fit_task_prompts")
    config.check(folder)
    host = resolve(pipe)
    token_limit(pipe, config.count)
    base = base_model(host, base_name)
    found = read_masked_pictures(pictures, who="fit_task_prompts")
    size = picture_size(host, config.resolution, who="fit_task_prompts")
    if accelerator is None:
        accelerator = make_accelerator(pipe.device, config.precision, folder, tensorboard=config.tensorboard)
    scheduler = training_scheduler(pipe)
    pipe.to(accelerator.device)
    start = starting_vectors(pipe, config)
    examples = Examples(found, size, config.mixture, config.seed)
    with frozen(pipe.text_encoder), _trained_part(pipe.unet, config):
        objective = TaskPromptsObjective(
            pipe,
            scheduler,
            start,
            examples.prompt,
            rate=config.prompt_learning_rate / config.loop.learning_rate,
            snr_gamma=config.snr_gamma,
        )
        draw = None
        if config.validate_every is not None and folder is not None:
            draw = task_validation(
                pipe,
                lambda: TaskPrompts(_now(objective), base_name=base.name),
                found,
                size,
                folder / "validation",
                every=config.validate_every,
                last=config.loop.end,
                sampler_steps=config.validation_steps,
                seed=config.seed,
            )
        average = fit(
            "task prompts",
            objective,
            MaskedBatches(
                pipe,
                examples,
                config.loop.batch_size,
                scheduler.config.num_train_timesteps,
                accelerator.process_index,
                config.offset_noise,
                config.timestep_power,
            ),
            config.loop,
            accelerator,
            folder,
            resume=resume,
            identity={
                "base_model": base.name,
                "pictures": digest(found),
                "resolution": size,
                "trains": config.trains,
                "ranks": [config.lora_rank, config.rank_share],
                "mixture": asdict(config.mixture),
                "noise": [config.offset_noise, config.timestep_power, config.snr_gamma],
                "count": config.count,
                "init": [config.init_word, config.init_std],
                "seed": config.seed,
            },
            after_step=draw,
        )
        if average is not None:
            _take(objective, average)
        vectors = _now(objective)
    for tracker in accelerator.trackers:
        tracker.finish()
    init = f"{config.init_word!r} + N(0, {config.init_std}^2)"
    return TaskPrompts(vectors, base_name=base.name, init=init, sampling=sampling_of(config, pipe))


def starting_vectors(pipe: Any, config: TaskPromptsConfig) -> dict[PromptName, Vectors]:
    """Every vector the embedding of the word, with noise of its own."""
    words = embeddings_of(pipe, config.init_word)
    return {
        name: tuple(
            word + config.init_std * torch.randn(config.count, len(word), generator=_stream(config, place, number))
            for number, word in enumerate(words)
        )
        for place, name in enumerate(NAMES)
    }


@torch.no_grad()
def _now(objective: TaskPromptsObjective) -> dict[PromptName, Vectors]:
    """The prompts as they are, fp32 on the CPU."""
    return {
        name: tuple(one.detach().float().cpu().clone() for one in vectors)
        for name, vectors in objective.vectors().items()
    }


def _stream(config: TaskPromptsConfig, *key: int) -> torch.Generator:
    return torch_generator(config.seed, 4, *key)


@contextmanager
def _trained_part(unet: Any, config: TaskPromptsConfig) -> Iterator[None]:
    """What of the UNet learns asks for gradients meanwhile, in fp32; all else does not."""
    if config.trains in ADAPTED:
        _add_adapter(unet, config)
    elif config.trains == "unet" and unet.dtype != torch.float32:
        unet.to(torch.float32)
    with frozen(unet, config.gradient_checkpointing):
        for name, parameter in unet.named_parameters():
            learns = config.trains == "unet" or (
                config.trains in ADAPTED and (ADAPTER in name or name.startswith("conv_in."))
            )
            parameter.requires_grad_(learns)
            if learns:
                parameter.data = parameter.data.float()
        yield


def _add_adapter(unet: Any, config: TaskPromptsConfig) -> None:
    from peft import LoraConfig

    if ADAPTER in getattr(unet, "peft_config", {}):
        raise ValueError(
            f"fit_task_prompts: the UNet has an adapter {ADAPTER!r} already; load the pipeline again, or fuse and "
            "unload it first"
        )
    ranks = {}
    if config.trains == "residuals":
        ranks = {info.name: max(round(config.rank_share * info.width), 1) for info in find_projections(unet)}
    unet.add_adapter(
        LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_rank,
            rank_pattern=ranks,
            alpha_pattern=ranks,  # factors count as they are, whatever their rank
            init_lora_weights="gaussian",
            target_modules=list(ranks or ADAPTED[config.trains]),
        ),
        ADAPTER,
    )


@torch.no_grad()
def _take(objective: TaskPromptsObjective, average: dict[str, torch.Tensor]) -> None:
    for name, parameter in objective.named_parameters():
        if name in average:
            parameter.copy_(average[name])
