"""``fit_residual``: teach a frozen model one concept from a few pictures (Personalized Residuals)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from weft.attach.base_model import base_model
from weft.attach.projections import GatedProjections, ProjectionInfo, ProjectionTerms
from weft.methods.residual import Residual
from weft.train.diffusion import (
    Latents,
    TextStates,
    denoising_target,
    encode_captions,
    encode_views,
    training_scheduler,
)
from weft.train.images import digest, read_images, views
from weft.train.loop import Batch, LoopConfig, fit
from weft.train.randomness import torch_generator

Init = Literal["lora", "random"]
Precision = Literal["auto", "no", "fp16", "bf16"]

CAPTION = "a photo of a {identifier} {class_word}"
RANDOM_STD = 0.01  # of both factors where neither starts at zero


@dataclass(frozen=True)
class ResidualConfig:
    """Every number of ``fit_residual``; the defaults are the paper's, or what it leaves open (see ``init``)."""

    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=150, learning_rate=1e-3, batch_size=4))
    rank_share: float = 0.05  # rank of a layer, as a share of its width
    # "lora": up zero, down N(0, 1 / width), so that training begins at the base model; "random": both N(0, 0.01^2),
    # for the paper says only that its matrices start random. On the embedded model both end alike: six pictures of a
    # two-coloured circle, three seeds, loss on sixteen others 0.056 and 0.057, where the base model has 0.151
    init: Init = "lora"
    caption: str = CAPTION
    resolution: int | None = None  # pixels; None: the model's own
    crops: int = 1  # squares of each picture: its centre, and random ones
    flip: bool = False  # mirror images too
    seed: int = 0
    precision: Precision = "auto"  # compute; factors stay fp32. auto: bf16 or fp16 on a GPU, none on a CPU
    gradient_checkpointing: bool = False
    validate_every: int | None = None  # steps; pictures go to folder/validation
    validation_prompts: tuple[str, ...] = ()  # with {identifier} and {class_word}; none: the caption
    validation_steps: int = 25  # of the sampler
    tensorboard: bool = False  # logs to folder/tensorboard


def fit_residual(
    pipe: Any,
    images: Any,
    class_word: str,
    identifier: str = "V*",
    *,
    config: ResidualConfig | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    accelerator: Accelerator | None = None,
    base_name: str | None = None,
) -> Residual:
    """Learn what ``images`` show, as low-rank factors of every ``proj_out`` of the pipeline's UNet.

    The model stays frozen and is given back as it was. There are no regularisation images. Latents and text are
    encoded once.

    Args:
        pipe: A Stable Diffusion 1.x, 2.x or XL pipeline of diffusers. With fp16 weights train on a GPU.
        images: A folder, or a sequence of files or PIL images, of one concept; four to eight are plenty.
        class_word: What the concept is one of: "dog".
        identifier: Names the concept in prompts, before the class word. The tokenizer reads it as it stands, and its
            embedding is not trained (the paper's parameters are the factors alone); the text must not be one that
            means something to the model already, as "V*" and "sks" do not.
        config: Numbers; None for the paper's.
        folder: Keeps checkpoints, log and validation pictures. None keeps nothing, and then Ctrl-C raises at once.
        resume: Go on from the checkpoint in ``folder``; on a CPU with the same bits as if nothing had happened.
        accelerator: Device, precision and processes; None makes one for the device of ``pipe``.
        base_name: Name of the model to keep with the result; None for what diffusers remembers.

    Returns:
        The residual, its factors fp32 on the CPU.

    Raises:
        TypeError: Not a pipeline, or images that are none.
        FileNotFoundError: Images that are not there.
        ValueError: No images, unreadable or tiny ones, a class word or identifier without a token, an option out of
            range, a model of another family, or a checkpoint of another run.
        weft.train.Diverged: The loss is not finite; the last good checkpoint is kept.
        weft.train.Interrupted: Ctrl-C or SIGTERM with ``folder``; the checkpoint has been written.

    Source:
        Ham et al. 2024, arXiv:2405.12978, section 3; AdamW's decay and the distribution of the start are not stated
        there. Its letters are swapped: its A is ``up``, its B is ``down``.
    """
    config = config or ResidualConfig()
    folder = None if folder is None else Path(folder)
    _check(config, folder)
    base = base_model(pipe, base_name)
    if not hasattr(pipe, "encode_prompt"):
        raise TypeError(f"fit_residual: needs a pipeline, for its text encoder; got {type(pipe).__name__}")
    words = {"identifier": identifier, "class_word": class_word}
    caption = config.caption.format(**words)
    _check_words(pipe, words, caption)
    if accelerator is None:
        accelerator = make_accelerator(config, pipe.device, folder)
    size = config.resolution or _native_size(pipe)
    squares = views(read_images(images), size, crops=config.crops, flip=config.flip, seed=config.seed)
    scheduler = training_scheduler(pipe)
    pipe.to(accelerator.device)
    latents, text = encode_views(pipe, squares), encode_captions(pipe, [caption])

    unet = pipe.unet
    required = [(parameter, parameter.requires_grad) for parameter in unet.parameters()]
    had_checkpointing = unet.is_gradient_checkpointing
    with GatedProjections(unet) as projections:
        objective = ResidualObjective(unet, projections, scheduler, text, config)
        try:
            unet.requires_grad_(False)
            if config.gradient_checkpointing and not had_checkpointing:
                unet.enable_gradient_checkpointing()
            fit(
                "residual",
                objective,
                batches(latents, scheduler.config.num_train_timesteps, config, accelerator.process_index),
                config.loop,
                accelerator,
                folder,
                resume=resume,
                identity={
                    **words,
                    "caption": caption,
                    "base_model": base.name,
                    "images": digest(squares),
                    "resolution": size,
                    "ranks": [objective.rank(info) for info in base.projections],
                    "init": config.init,
                    "seed": config.seed,
                },
                after_step=_validation(pipe, words, caption, config, folder),
            )
        finally:
            if config.gradient_checkpointing and not had_checkpointing:
                unet.disable_gradient_checkpointing()
            for parameter, value in required:
                parameter.requires_grad_(value)
    accelerator.end_training()
    down, up = objective.factors()
    return Residual(down, up, identifier, class_word, base.name, base.text_width, base.projections[0].is_convolution)


class ResidualObjective(nn.Module):
    """The denoising loss of a UNet whose projections have one concept's factors; the factors are its parameters.

    Attributes:
        down: [r, m] fp32 a layer, in the order of the projections.
        up: [m, r] fp32.
    """

    unet: Any
    states: Tensor
    pooled: Tensor | None

    def __init__(
        self, unet: Any, projections: GatedProjections, scheduler: Any, text: TextStates, config: ResidualConfig
    ) -> None:
        super().__init__()
        self.unet = unet
        self.scheduler: Any = scheduler
        self.infos = projections.infos
        self._rank_share = config.rank_share
        self.register_buffer("states", text.states)
        self.register_buffer("pooled", text.pooled)
        self.down, self.up = nn.ParameterList(), nn.ParameterList()
        for number, info in enumerate(projections.infos):
            down, up = self._start(info, config.init, torch_generator(config.seed, number))
            self.down.append(down)
            self.up.append(up)
            projections[info.name].terms = ProjectionTerms(self.down[number], self.up[number])

    def rank(self, info: ProjectionInfo) -> int:
        """Rank of a layer: 16, 32, 64 for widths of 320, 640, 1280."""
        return max(round(self._rank_share * info.width), 1)

    def forward(self, latents: Tensor, noise: Tensor, timesteps: Tensor, time_ids: Tensor) -> dict[str, Tensor]:
        """Mean squared error of the prediction.

        Args:
            latents: [B, C, h, w] fp32, clean.
            noise: N(0, 1) of the same shape.
            timesteps: [B] int64.
            time_ids: [B, 6], read by SDXL alone.
        """
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        text = self.states.expand(len(latents), -1, -1)
        added = {}
        if self.pooled is not None:
            pooled = self.pooled.expand(len(latents), -1)
            added["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": time_ids.to(pooled.dtype)}
        predicted = self.unet(noisy.to(self.unet.dtype), timesteps, text, **added).sample
        target = denoising_target(self.scheduler, latents, noise, timesteps)
        return {"loss": F.mse_loss(predicted.float(), target)}

    def factors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(down, up) by layer, on the CPU."""

        def named(values: nn.ParameterList) -> dict[str, Tensor]:
            return {
                info.name: value.detach().float().cpu().clone() for info, value in zip(self.infos, values, strict=True)
            }

        return named(self.down), named(self.up)

    def _start(
        self, info: ProjectionInfo, init: Init, generator: torch.Generator
    ) -> tuple[nn.Parameter, nn.Parameter]:
        rank = self.rank(info)
        down = torch.randn(rank, info.width, generator=generator)
        up = torch.randn(info.width, rank, generator=generator)
        if init == "random":
            return nn.Parameter(down * RANDOM_STD), nn.Parameter(up * RANDOM_STD)
        return nn.Parameter(down / info.width**0.5), nn.Parameter(torch.zeros_like(up))


def batches(latents: Latents, timesteps: int, config: ResidualConfig, process: int) -> Callable[[int], Batch]:
    """The function from the samples seen to the next batch: latents, noise, timesteps, time ids."""
    count, size = len(latents.mean), config.loop.batch_size

    def batch_at(samples: int) -> Batch:
        first = samples + process * size
        indices = torch.tensor([_shuffled(count, config.seed, *divmod(first + i, count)) for i in range(size)])
        generator = torch_generator(config.seed, 0, first)
        posterior, noise = torch.randn(2, size, *latents.mean.shape[1:], generator=generator)
        times = torch.randint(timesteps, (size,), generator=generator)
        return latents.sample(indices, posterior), noise, times, latents.time_ids[indices]

    return batch_at


def make_accelerator(config: ResidualConfig, device: torch.device, folder: Path | None = None) -> Accelerator:
    """An accelerator for pipelines on ``device``, with the precision and tracker that ``config`` asks for."""
    precision = config.precision
    if precision == "auto":
        precision = "no" if device.type == "cpu" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=device.type == "cpu",
        log_with="tensorboard" if config.tensorboard else None,
        project_dir=folder,
    )
    if config.tensorboard:
        accelerator.init_trackers("tensorboard")
    return accelerator


def _shuffled(count: int, seed: int, epoch: int, place: int) -> int:
    """Which view comes at ``place`` of an epoch: each once, in a new order every time."""
    return int(torch.randperm(count, generator=torch_generator(seed, 1, epoch))[place])


def _validation(
    pipe: Any, words: dict[str, str], caption: str, config: ResidualConfig, folder: Path | None
) -> Callable[[int], None] | None:
    """What draws the validation pictures, each from its own noise, with the factors as they are."""
    if config.validate_every is None or folder is None:
        return None
    every = config.validate_every
    prompts = [prompt.format(**words) for prompt in config.validation_prompts] or [caption]

    def draw(step: int) -> None:
        if step % every and step != config.loop.steps:
            return
        target = folder / "validation"
        target.mkdir(parents=True, exist_ok=True)
        for number, prompt in enumerate(prompts):
            generator = torch.Generator(pipe.device).manual_seed(config.seed)
            with torch.no_grad():
                drawn = pipe(prompt, num_inference_steps=config.validation_steps, generator=generator).images[0]
            drawn.save(target / f"step{step:05d}-{number}.png")

    return draw


def _native_size(pipe: Any) -> int:
    """Side in pixels of the pictures that the model was made for."""
    cells = pipe.unet.config.sample_size
    return int(cells if isinstance(cells, int) else min(cells)) * int(pipe.vae_scale_factor)


def _check(config: ResidualConfig, folder: Path | None) -> None:
    if config.crops < 1:
        raise ValueError(f"fit_residual: `crops` must be at least 1; got {config.crops}")
    if not 0 < config.rank_share <= 1:
        raise ValueError(f"fit_residual: `rank_share` must be above 0 and at most 1; got {config.rank_share}")
    if config.init not in ("lora", "random"):
        raise ValueError(f"fit_residual: `init` must be 'lora' or 'random'; got {config.init!r}")
    if config.resolution is not None and (config.resolution < 8 or config.resolution % 8):
        raise ValueError(f"fit_residual: `resolution` must be a multiple of 8 pixels; got {config.resolution}")
    if config.validate_every is not None and config.validate_every < 1:
        raise ValueError(f"fit_residual: `validate_every` must be at least 1; got {config.validate_every}")
    if folder is None and (config.validate_every is not None or config.tensorboard):
        raise ValueError("fit_residual: validation pictures and tensorboard logs need `folder`; got None")


def _check_words(pipe: Any, words: dict[str, str], caption: str) -> None:
    """Every word must reach the text encoder."""
    for tokenizer in (getattr(pipe, "tokenizer", None), getattr(pipe, "tokenizer_2", None)):
        if tokenizer is None:
            continue
        for name, word in words.items():
            ids = tokenizer(word, add_special_tokens=False).input_ids
            if not ids or tokenizer.unk_token_id in ids:
                raise ValueError(
                    f"fit_residual: `{name}` must be text that the model's tokenizer knows; {word!r} has no token; "
                    "use another word"
                )
        length = len(tokenizer(caption, truncation=False, verbose=False).input_ids)
        if length > tokenizer.model_max_length:
            raise ValueError(
                f"fit_residual: the caption must fit the text encoder's {tokenizer.model_max_length} tokens; "
                f"{caption!r} has {length}; use a shorter one"
            )
